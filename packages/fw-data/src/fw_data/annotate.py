"""The `annotate` command: options, and the exit code.

0: the dataset holds clips and no error of ours happened. 1: nothing could be annotated, or something failed.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from fw_data.config import AnnotateConfig, BackendSpec
from fw_data.filters import FilterConfig


@dataclass(frozen=True, kw_only=True)
class AnnotateOptions:
    """Turn a folder of raw videos into a dataset with depth, confidence and cameras of every frame.

    Run it again to go on after an interruption or to add videos: only what is missing is done. A caption may stand in
    NAME.txt beside NAME.mp4. Every video and clip that is left out is listed with its reason in refusals.jsonl.
    """

    raw: Positional[Path]
    """Folder of the videos; subfolders count."""
    out: Positional[Path]
    """Folder of the dataset; made if missing."""
    geometry: Literal["sfm", "oracle"] = "sfm"
    """sfm: structure from motion, from the video alone. oracle: truth files (synthetic video, tests)."""
    truth: Path | None = None
    """oracle: folder that mirrors RAW with NAME.npz for each NAME.mp4, as `fw-data toy` writes it."""
    oracle_noise: float = 0.0
    """oracle: relative depth error to add, e.g. 0.02."""
    size: str = "auto"
    """Stored size. auto: the source's aspect, long side at most 640. source: as it is. Or HxW such as 336x592. All are
    cropped to multiples of 16."""
    frames: int = 81
    """Longest clip, in frames; longer shots give several clips."""
    min_frames: int = 5
    """Shortest clip, in frames; what is shorter is listed as filtered."""
    crf: int = 14
    """H.264 quality of the stored video: 0 lossless, 18 good, 28 poor."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Limits of the cheap filters."""
    workers: int | None = None
    """Worker processes. Default: 1 for sfm, whose libraries use all cores already; one per core for oracle. 0 works
    in this process, for debugging."""
    retry_failed: bool = False
    """Try again what an earlier run refused or failed on."""
    shard_mb: int = 256
    """A shard is closed when it reaches this size."""


def run(options: AnnotateOptions) -> int:
    """Annotate; returns the exit code."""
    from fw_data.engine.local import LocalEngine
    from fw_data.pipeline import annotate
    from fw_data.progress import print_summary, reporter_for, stdout_console

    spec = _backend_spec(options)
    config = AnnotateConfig(
        size=options.size,
        max_frames=options.frames,
        min_frames=options.min_frames,
        crf=options.crf,
        filters=options.filters,
    )
    default_workers = 1 if options.geometry == "sfm" else os.cpu_count() or 1
    workers = default_workers if options.workers is None else options.workers
    if workers < 0 or options.shard_mb < 1:
        raise ValueError("--workers must be 0 or more, and --shard-mb 1 or more")
    console = stdout_console()
    with _termination_as_interrupt(), LocalEngine(workers=workers) as engine:
        try:
            summary = annotate(
                options.raw,
                options.out,
                config=config,
                spec=spec,
                engine=engine,
                reporter=reporter_for(console),
                retry_failed=options.retry_failed,
                shard_bytes=options.shard_mb << 20,
            )
        except KeyboardInterrupt:
            console.print("stopped; finished clips are safe, and the same command goes on from here")
            return 130
    if not summary.videos:
        console.print(f"no videos in {options.raw}; put .mp4, .mov, .mkv, ... files there", highlight=False)
        return 1
    print_summary(summary, console)
    return 1 if summary.count("failed") or not summary.clips else 0


def _backend_spec(options: AnnotateOptions) -> BackendSpec:
    from fw_data.backends import OracleSpec, SfmSpec

    if options.geometry == "oracle":
        if options.truth is None:
            raise ValueError("--geometry oracle needs --truth, the folder of the .npz files")
        if not options.truth.is_dir():
            raise ValueError(f"--truth {options.truth} is not a folder")
        return OracleSpec(truth=options.truth.resolve(), depth_noise=options.oracle_noise)
    if options.truth is not None or options.oracle_noise:
        raise ValueError("--truth and --oracle-noise belong to --geometry oracle")
    return SfmSpec()


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM stops a run as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
