"""The `annotate` command: from its options to the pipeline, and the exit code.

0: the dataset holds clips and no error of ours happened. 1: nothing could be annotated, or something failed.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.pipeline import RunMode, annotate
from fw_data.annotate.plugins import load_function
from fw_data.annotate.progress import print_summary, reporter_for
from fw_data.annotate.select_backend import select_backend
from fw_data.console import stdout_console
from fw_data.engine.local import LocalEngine
from fw_data.media.probe import VIDEO_SUFFIXES
from fw_data.options import AnnotateOptions
from fw_data.quality.filters import FilterConfig

if TYPE_CHECKING:
    from fw_data.engine.ray import RayEngine


def run(options: AnnotateOptions) -> int:
    """Annotate; returns the exit code."""
    spec, messages = select_backend(options)
    if options.cuts == "transnetv2":
        from fw_data.shots.transnetv2 import find_weights

        find_weights()
    if options.captioner:
        load_function(options.captioner, "--captioner")
    config = AnnotateConfig(
        size=options.size,
        max_frames=options.frames,
        min_frames=options.min_frames,
        crf=options.crf,
        fps=options.fps,
        trim_s=options.trim,
        cuts=options.cuts,
        image_fps=options.image_fps,
        captioner=options.captioner,
        duplicate_bits=options.duplicate_bits,
        filters=FilterConfig(
            min_brightness=options.min_brightness,
            min_contrast=options.min_contrast,
            min_motion_px=options.min_motion,
            min_sharpness=options.min_sharpness,
            max_overlay=options.max_overlay,
        ),
    )
    if options.stop_after == "scan" and options.score_only:
        raise ValueError("--score-only needs the second pass, which --stop-after scan leaves out: give one of them")
    if options.shard_mb < 1:
        raise ValueError("--shard-mb must be 1 or more")
    console = stdout_console()
    for sentence in messages:
        console.print(sentence, highlight=False)
    with _termination_as_interrupt(), _engine(options, getattr(spec, "default_workers", 1)) as engine:
        try:
            summary = annotate(
                options.raw,
                options.out,
                config=config,
                spec=spec,
                engine=engine,
                reporter=reporter_for(console),
                mode=RunMode(
                    stop_after=options.stop_after,
                    score_only=options.score_only,
                    retry_failed=options.retry_failed,
                    follow_links=options.follow_links,
                    retry_quarantined=options.retry_quarantined,
                ),
                shard_bytes=options.shard_mb << 20,
            )
        except KeyboardInterrupt:
            console.print("stopped; finished clips are safe, and the same command resumes here")
            return 130
    if not summary.videos:
        kinds = " ".join(sorted(VIDEO_SUFFIXES))
        console.print(f"no videos in {options.raw}: put video files ({kinds}) or folders of numbered images there")
        return 1
    print_summary(summary, console)
    found = summary.planned if options.stop_after or options.score_only else summary.clips
    return 1 if summary.count("failed") or not found else 0


def _engine(options: AnnotateOptions, default_workers: int | None) -> "LocalEngine | RayEngine":
    if options.engine == "ray":
        from fw_data.engine.ray import RayEngine

        return RayEngine(
            workers=options.workers,
            cpus=options.cpus_per_worker,
            gpus=options.gpus_per_worker,
            address=options.ray_address,
        )
    if options.ray_address is not None or options.cpus_per_worker != 1 or options.gpus_per_worker:
        raise ValueError("--ray-address, --cpus-per-worker and --gpus-per-worker belong to --engine ray")
    workers = options.workers
    if workers is None:
        cores = os.cpu_count() or 1
        workers = cores if default_workers is None else min(default_workers, cores)
    if workers < 0:
        raise ValueError("--workers must be 0 or more")
    return LocalEngine(workers=workers)


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
