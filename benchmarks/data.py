"""The data bench: `python -m benchmarks.data` reads the same clips from our shards, from npz folders and through
webdataset, times annotate by stage, the depth codec and DUSt3R's pairs, and writes data.json and data.md. A missed
target exits 1.

Clips are toy worlds with true geometry, so nothing is downloaded. Ratios are of processor time, medians of alternating
pairs; above 1 is better for us. `make bench-data` runs it.
"""

import argparse
import dataclasses
import io
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.model_table import Row, machine, markdown, paired, ratio_row
from fw_data import ClipDataset
from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.pipeline import RunSummary, annotate
from fw_data.annotate.progress import PlainReporter
from fw_data.annotators.dust3r.network import Dust3rConfig, Dust3rNetwork, EncodedFrames, PairOutput
from fw_data.annotators.dust3r.pairs import pair_graph
from fw_data.annotators.dust3r.predictor import NetworkPredictor, PairPointmaps
from fw_data.annotators.oracle.spec import OracleSpec
from fw_data.annotators.sfm.spec import SfmSpec
from fw_data.cli import main as fw_data
from fw_data.dataset import depth_codec
from fw_data.dataset.buckets import Bucket, BucketTable
from fw_data.dataset.clip import Clip, unpack_cameras
from fw_data.dataset.loader import ClipLoader
from fw_data.dataset.transforms import fit_window
from fw_data.engine.local import LocalEngine
from fw_data.media.stored import decode_video
from fw_geometry.camera import Trajectory

WINDOW = 17


def make_dataset(folder: Path, *, clips: int, frames: int, size: str) -> tuple[ClipDataset, RunSummary]:
    """Toy worlds, annotated with their truth in this process."""
    with redirect_stdout(io.StringIO()):
        order = ["toy", str(folder / "toy"), "--clips", str(clips), "--frames", str(frames), "--size", size]
        assert fw_data(order) == 0
        config = AnnotateConfig(size="source", max_frames=frames)
        spec = OracleSpec(truth=folder / "toy" / "truth")
        raw, out = folder / "toy" / "raw", folder / "dataset"
        summary = annotate(raw, out, config=config, spec=spec, engine=LocalEngine(workers=0), reporter=PlainReporter())
    return ClipDataset(out), summary


def write_npz_folder(dataset: ClipDataset, folder: Path) -> int:
    """One folder per clip, as many datasets come: video.mp4 and compressed arrays in float32; returns the bytes."""
    total = 0
    for clip in dataset:
        place = folder / clip.id
        place.mkdir(parents=True)
        (place / "video.mp4").write_bytes(dataset.read(clip.id, "mp4"))
        np.savez_compressed(
            place / "geometry.npz", depth=clip.depth_m, confidence=clip.confidence, K=clip.K, pose_c2w=clip.pose_c2w
        )
        total += sum(path.stat().st_size for path in place.iterdir())
    return total


def read_npz_clip(place: Path, frames: int, window: range) -> dict[str, np.ndarray]:
    """A window of a clip of an npz folder."""
    with np.load(place / "geometry.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name][window.start : window.stop] for name in arrays.files}
    return found | {"video": decode_video((place / "video.mp4").read_bytes(), frames, window)}


def reading_rows(dataset: ClipDataset, folder: Path, pairs: int) -> list[Row]:
    """Whole clips and windows, ours against npz folders."""
    size = write_npz_folder(dataset, folder)
    ours = sum(member.size for record in dataset.records for member in record.members.values())
    frames = dataset.records[0].num_frames
    rows = [Row(name="dataset on disk, npz folders / ours", value=size / ours, unit="x", target=">= 1.3")]
    for name, window, target in (
        (f"whole clips of {frames} frames", range(frames), ">= 1"),
        (f"windows of {WINDOW} frames", range(8, 8 + WINDOW), ">= 1.2"),
    ):

        def mine(window: range = window) -> None:
            for record in dataset.records:
                dataset.load(record.id, slice(window.start, window.stop))

        def theirs(window: range = window) -> None:
            for record in dataset.records:
                read_npz_clip(folder / record.id, frames, window)

        times = paired(mine, theirs, pairs=pairs)
        rate = len(dataset) / times[0].wall_s
        rows.append(ratio_row(f"{name}: npz folders / ours", times, target=target, note=f"ours {rate:.2f} clips/s"))

        def geometry(window: range = window) -> None:
            for record in dataset.records:
                dataset.geometry(record.id, slice(window.start, window.stop))

        def arrays(window: range = window) -> None:
            for record in dataset.records:
                with np.load(folder / record.id / "geometry.npz", allow_pickle=False) as found:
                    [found[key][window.start : window.stop] for key in found.files]

        times = paired(geometry, arrays, pairs=pairs)
        rows.append(ratio_row(f"geometry of {name}: npz / ours", times, target=">= 1.1"))
    return rows


def loader_rows(dataset: ClipDataset, pairs: int) -> list[Row]:
    """Ready samples: our loader in its random order against a sequential webdataset pass over the same shards."""
    try:
        found = version("webdataset")
    except PackageNotFoundError:
        return [
            Row(name="webdataset / our loader", value=0, unit="x", details="webdataset is not installed: not measured")
        ]
    from webdataset.compat import WebDataset

    first = dataset.records[0]
    bucket = Bucket(frames=first.num_frames, height=first.height // 32 * 16, width=first.width // 32 * 16)
    shards = [str(path) for path in sorted((dataset.path / "shards").glob("*.tar"))]

    def mine() -> None:
        loader = ClipLoader(dataset, BucketTable(buckets=(bucket,), max_crop=0.6), seed=0, random_start=False)
        for batch in loader:
            if batch.step + 1 == len(dataset):
                break

    def sample(files: dict[str, Any]) -> Any:
        cameras = unpack_cameras(files["cameras.npz"])
        video = decode_video(files["mp4"], bucket.frames)
        depth, confidence = depth_codec.decode(files["depth.zst"]), depth_codec.decode(files["conf.zst"])
        path = Trajectory(K=cameras.K, pose_c2w=cameras.pose_c2w, width=depth.shape[2], height=depth.shape[1])
        return fit_window(video, depth, confidence, path, bucket.height, bucket.width)

    def theirs() -> None:
        passed: Any = WebDataset(shards, shardshuffle=False, empty_check=False)
        assert sum(1 for _ in passed.map(sample)) == len(dataset)

    times = paired(mine, theirs, pairs=pairs)
    rate = len(dataset) / times[0].wall_s
    note = f"ours {rate:.2f} clips/s of {bucket} in random order, webdataset {found} sequential; the same decoders"
    return [ratio_row("ready samples: webdataset / our loader", times, target=">= 0.8", note=note)]


def codec_rows(clip: Clip, pairs: int) -> list[Row]:
    """Depth alone: our blob against npz of the same float16 numbers."""
    blob, sink = depth_codec.encode_depth(clip.depth_m), io.BytesIO()
    half = clip.depth_m.astype(np.float16)
    np.savez_compressed(sink, depth=half)
    packed = sink.getvalue()

    def read_npz() -> np.ndarray:
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            return arrays["depth"].astype(np.float32)

    def write_npz() -> None:
        np.savez_compressed(io.BytesIO(), depth=half)

    repeat = partial(_times, 5)
    bits = 8 * len(blob) / clip.depth_m.size
    error = np.abs(depth_codec.decode(blob) / np.maximum(clip.depth_m, 1e-9) - 1)[clip.valid].max()
    decode = paired(repeat(lambda: depth_codec.decode(blob)), repeat(read_npz), pairs=pairs)
    encode = paired(repeat(lambda: depth_codec.encode_depth(clip.depth_m)), repeat(write_npz), pairs=pairs)
    details = f"{bits:.2f} bits a pixel, largest relative error {error:.1e}"
    return [
        Row(
            name="depth size: npz float16 / ours",
            value=len(packed) / len(blob),
            unit="x",
            target=">= 1.5",
            details=details,
        ),
        ratio_row("depth decode: npz float16 / ours", decode, target=">= 1.1"),
        ratio_row("depth encode: npz float16 / ours", encode, target=">= 1.8"),
    ]


def encoder_rows(pairs: int, frames: int = 6, height: int = 64, width: int = 96) -> list[Row]:
    """Point maps of a clip's pairs: every frame encoded once, against both frames of every pair encoded for that pair.

    The network has the released 512_dpt's size and random weights. The other side is as lean as the pair-wise way can
    be: the two images of a pair are encoded once for both of its directions.
    """
    network = Dust3rNetwork(Dust3rConfig()).eval()
    predictor, graph = NetworkPredictor(network), pair_graph(frames, "swin", 3)
    frames_8bit = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)
    images = torch.from_numpy(frames_8bit).movedim(-1, 1).float() / 127.5 - 1
    both = [(i, j) for i, j in graph if i < j]

    def mine() -> list[PairPointmaps]:
        return list(predictor.predict(frames_8bit, graph, lambda _: None))

    @torch.inference_mode()
    def theirs() -> list[PairOutput]:
        out = []
        for pair in both:
            seen = network.encode(images[list(pair)])
            out.append(network.decode(seen, EncodedFrames(seen.tokens.flip(0), seen.grid)))
        return out

    ours, other = {(one.first, one.second): one.first_points for one in mine()}, theirs()
    for pair, maps in zip(both, other, strict=True):
        for side, key in enumerate((pair, (pair[1], pair[0]))):
            np.testing.assert_allclose(ours[key], maps.points1[side].numpy(), rtol=1e-3, atol=1e-4)
    times = paired(mine, theirs, pairs=min(pairs, 3))
    note = f"{frames} frames of {height}x{width}, {len(graph)} directed pairs (swin, reach 3), same maps"
    return [ratio_row("DUSt3R, all pairs: per-pair encoding / encoded once", times, target=">= 1.3", note=note)]


def stage_rows(summary: RunSummary, name: str) -> list[Row]:
    """Where annotate's time goes."""
    total = sum(summary.seconds.values())
    return [
        Row(
            name=f"annotate --geometry {name}, stage {stage}",
            value=1000 * seconds / summary.frames,
            unit="ms a frame",
            details=f"{seconds / total:.0%} of the time in clips",
        )
        for stage, seconds in summary.seconds.items()
    ]


def sfm_rows(folder: Path, frames: int) -> list[Row]:
    """The stages with geometry from the video alone, on the first toy clip."""
    raw = folder / "one"
    raw.mkdir()
    video = sorted((folder / "toy" / "raw").glob("*.mp4"))[0]
    (raw / video.name).write_bytes(video.read_bytes())
    config, engine = AnnotateConfig(size="source", max_frames=frames), LocalEngine(workers=0)
    with redirect_stdout(io.StringIO()):
        summary = annotate(raw, folder / "sfm", config=config, spec=SfmSpec(), engine=engine, reporter=PlainReporter())
    if not summary.frames:
        return [Row(name="annotate --geometry sfm", value=0, unit="ms a frame", details=str(summary.refusals[:1]))]
    return stage_rows(summary, "sfm")


def _times(count: int, action: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            action()

    return run


def main() -> int:
    """Measure, print, write; 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for data.json and data.md")
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--size", default="336x192")
    parser.add_argument("--pairs", type=int, default=5, help="alternating runs of each side")
    parser.add_argument("--sfm", action="store_true", help="also time annotate from the video alone (minutes)")
    options = parser.parse_args()
    if options.frames < 8 + WINDOW:
        parser.error(f"--frames must be {8 + WINDOW} or more")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset, summary = make_dataset(folder, clips=options.clips, frames=options.frames, size=options.size)
        rows = reading_rows(dataset, folder / "npz", options.pairs)
        rows += loader_rows(dataset, options.pairs)
        rows += codec_rows(dataset.load(0), options.pairs)
        rows += encoder_rows(options.pairs)
        rows += stage_rows(summary, "oracle")
        rows += sfm_rows(folder, options.frames) if options.sfm else []
    facts = machine() | {"clips": len(dataset), "frames": options.frames, "size": options.size}
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"machine": facts, "rows": [{**dataclasses.asdict(row), "met": row.met} for row in rows]}
    (options.out / "data.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    table = markdown(rows, facts)
    (options.out / "data.md").write_text(table, encoding="utf-8")
    print(table)
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
