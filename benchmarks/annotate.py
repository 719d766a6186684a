"""The annotation bench: `fw-data annotate` and COLMAP on the same clips, with ground truth where there is one.

    python -m benchmarks.annotate --out bench            # rendered clips, and the recordings in ../shared/data
    python -m benchmarks.annotate --out bench --seven-scenes FOLDER --kitti FOLDER

It renders four clips with exact truth into worlds/ (five minutes, once). It writes annotate.md, annotate.json and,
under datasets/, one dataset per clip with its inspect page. COLMAP runs with SIFT, exhaustive matching, one shared
SIMPLE_PINHOLE camera, and both of its mappers, on clips of up to 100 frames: it matches all pairs. Ours gives depth as
well, COLMAP cameras only. CPU seconds are of all processes; ATE is the RMSE of the camera centers after a similarity
alignment.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import pycolmap
from PIL import Image

from benchmarks import recordings
from benchmarks.recordings import DATA, Recording
from fw_data import ClipDataset
from fw_data.annotate.command import run
from fw_data.cli import main as fw_data
from fw_data.dataset.clip import Clip
from fw_data.dataset.schema import Refusal
from fw_data.options import AnnotateOptions
from fw_geometry.align import fit_scale
from fw_geometry.metrics import ate

STRETCHES = ((0, 160, 2), (500, 660, 2))
"""Stretches of RedKitchen seq-01 beside the one in ../shared/data, which is 300 to 460."""
TRUSTED = 0.3
COLMAP_FRAMES = 100
"""Most frames that COLMAP is given: matching all pairs of more takes most of an hour."""
MAPPERS: dict[str, Callable[..., dict[int, pycolmap.Reconstruction]]] = {
    "incremental": pycolmap.incremental_mapping,
    "global": pycolmap.global_mapping,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One program on one clip."""

    outcome: str
    """Grade or refusal; for COLMAP the frames that it posed."""
    posed: int
    cpu_s: float
    ate_mm: float | None = None
    ate_percent: float | None = None
    """Of the length of the path."""
    focal_percent: float | None = None
    """Error of the focal length."""
    depth: "DepthFigures | None" = None


@dataclass(frozen=True, kw_only=True)
class DepthFigures:
    """Depth against the truth, one scale for the clip; shares are of the pixels with true depth."""

    coverage: float
    """Share with a trusted depth (confidence over 0.3)."""
    coverage_all: float
    """Share with any depth."""
    abs_rel: float
    """Mean relative error where depth is trusted."""
    abs_rel_60: float
    """The same over the 60 % with the highest confidence."""
    abs_rel_all: float
    """The same over every annotated pixel."""


def annotate(recording: Recording, work: Path) -> Outcome:
    """`fw-data annotate` with its defaults; the dataset stays in `work`."""
    raw, dataset = work / "raw", work / "dataset"
    raw.mkdir(parents=True)
    if isinstance(recording.source, Path):
        (raw / recording.source.name).symlink_to(recording.source)
    else:
        (raw / "frames").mkdir()
        for index, path in enumerate(recording.source):
            (raw / "frames" / f"{index:06d}{path.suffix}").symlink_to(path)
    begun = _cpu_s()
    run(AnnotateOptions(raw=raw, out=dataset, follow_links=True))
    spent = _cpu_s() - begun
    found = ClipDataset(dataset) if (dataset / "manifest.parquet").is_file() else None
    if found is None or not len(found):
        refusals = [Refusal.model_validate_json(line) for line in (dataset / "refusals.jsonl").read_text().splitlines()]
        return Outcome(outcome=", ".join(sorted({refusal.code for refusal in refusals})), posed=0, cpu_s=spent)
    fw_data(["inspect", str(dataset)])
    records = list(found.records)
    grades = "grade " + ", ".join(record.grade for record in records)
    if recording.pose_c2w is None or recording.focal_px is None:
        return Outcome(outcome=grades, posed=sum(record.num_frames for record in records), cpu_s=spent)
    longest = max(range(len(records)), key=lambda number: records[number].num_frames)
    clip, first = found.load(longest), records[longest].start_frame
    width, height = _size(recording)
    scale = max(clip.depth_m.shape[2] / width, clip.depth_m.shape[1] / height)
    error_mm = 1000 * ate(clip.pose_c2w, recording.pose_c2w[first : first + len(clip)]).rmse
    return Outcome(
        outcome=grades,
        posed=len(clip),
        cpu_s=spent,
        ate_mm=error_mm,
        ate_percent=error_mm / 10 / recording.path_m,
        focal_percent=100 * (float(np.median(clip.K[:, 0, 0])) / scale / recording.focal_px - 1),
        depth=depth_figures(clip, recording.depth_m, first) if recording.depth_m else None,
    )


def depth_figures(clip: Clip, truth_of: Callable[[int], np.ndarray], first: int = 0) -> DepthFigures:
    """The depth of a clip that starts at frame `first` against the truth, at the same size."""
    truth = np.stack([truth_of(first + frame) for frame in range(len(clip))])
    known = truth > 0
    some = known & clip.valid
    trusted = some & (clip.confidence > TRUSTED)
    scale = fit_scale(clip.depth_m[trusted].astype(np.float64), truth[trusted])
    error = np.abs(scale * clip.depth_m - truth) / np.where(known, truth, 1)
    surest = np.sort(clip.confidence[some])[::-1]
    limit = surest[min(len(surest) - 1, int(0.6 * known.sum()))]
    return DepthFigures(
        coverage=float(trusted.sum() / known.sum()),
        coverage_all=float(some.sum() / known.sum()),
        abs_rel=float(error[trusted].mean()),
        abs_rel_60=float(error[some & (clip.confidence >= limit)].mean()),
        abs_rel_all=float(error[some].mean()),
    )


def colmap(recording: Recording, work: Path) -> dict[str, Outcome]:
    """COLMAP with both mappers; each has the CPU time of the matching and its own."""
    if _frames(recording) > COLMAP_FRAMES:
        return {}
    images = work / "images"
    images.mkdir(parents=True)
    if isinstance(recording.source, Path):
        for index, frame in enumerate(recording.images()):
            Image.fromarray(frame).save(images / f"{index:06d}.png")
    else:
        for index, path in enumerate(recording.source):
            (images / f"{index:06d}{path.suffix}").symlink_to(path)
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    pycolmap.set_random_seed(0)
    database = work / "database.db"
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
    begun = _cpu_s()
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader)
    pycolmap.match_exhaustive(database)
    matching = _cpu_s() - begun
    outcomes = {}
    for name, mapper in MAPPERS.items():
        (work / name).mkdir()
        begun = _cpu_s()
        models = mapper(database, images, work / name)
        outcomes[name] = _colmap_outcome(recording, models, matching + _cpu_s() - begun)
    return outcomes


def _colmap_outcome(recording: Recording, models: dict[int, pycolmap.Reconstruction], cpu_s: float) -> Outcome:
    if not models:
        return Outcome(outcome="no model", posed=0, cpu_s=cpu_s)
    model = max(models.values(), key=lambda model: model.num_reg_images())
    found = sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)
    outcome = f"{len(found)} posed"
    if recording.pose_c2w is None or recording.focal_px is None:
        return Outcome(outcome=outcome, posed=len(found), cpu_s=cpu_s)
    pose = np.tile(np.eye(4), (len(found), 1, 1))
    pose[:, :3] = [image.cam_from_world().inverse().matrix() for image in found]
    error_mm = 1000 * ate(pose, recording.pose_c2w[[int(image.name[:6]) for image in found]]).rmse
    focal = float(next(iter(model.cameras.values())).params[0])
    return Outcome(
        outcome=outcome,
        posed=len(found),
        cpu_s=cpu_s,
        ate_mm=error_mm,
        ate_percent=error_mm / 10 / recording.path_m,
        focal_percent=100 * (focal / recording.focal_px - 1),
    )


def markdown(results: dict[str, dict[str, Outcome]]) -> str:
    """Cameras of every program, then our depth."""
    lines = ["| clip | program | outcome | ATE | focal length | CPU-s |", "|---|---|---|---:|---:|---:|"]
    for clip, programs in results.items():
        for name, found in programs.items():
            error = "" if found.ate_mm is None else f"{found.ate_mm:.1f} mm ({found.ate_percent:.2f} %)"
            focal = "" if found.focal_percent is None else f"{found.focal_percent:+.1f} %"
            lines.append(f"| {clip} | {name} | {found.outcome} | {error} | {focal} | {found.cpu_s:.0f} |")
    lines += [
        "",
        "| clip | trusted | any depth | AbsRel, trusted | best 60 % | all |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for clip, programs in results.items():
        depth = programs["fw-data"].depth if "fw-data" in programs else None
        if depth:
            shares = f"{depth.coverage:.0%} | {depth.coverage_all:.0%}"
            errors = f"{depth.abs_rel:.3f} | {depth.abs_rel_60:.3f} | {depth.abs_rel_all:.3f}"
            lines.append(f"| {clip} | {shares} | {errors} |")
    return "\n".join(lines) + "\n"


def _size(recording: Recording) -> tuple[int, int]:
    """Width and height of the source."""
    if isinstance(recording.source, Path):
        with av.open(str(recording.source)) as container:
            return container.streams.video[0].width, container.streams.video[0].height
    with Image.open(recording.source[0]) as image:
        return image.size


def _frames(recording: Recording) -> int:
    """Number of frames of the source."""
    if not isinstance(recording.source, Path):
        return len(recording.source)
    with av.open(str(recording.source)) as container:
        return sum(packet.dts is not None for packet in container.demux(video=0))


def _cpu_s() -> float:
    """Processor seconds of this process and of its children that ended."""
    return sum(os.times()[:4])


def _clips(options: argparse.Namespace) -> list[Recording]:
    found = []
    if options.rendered:
        found = recordings.rendered(options.out / "worlds")
    if DATA.is_dir():
        found += [recordings.redkitchen(), *(Recording(name=v, source=DATA / "raw" / v) for v in recordings.VIDEOS)]
    if options.seven_scenes:
        found += [recordings.seven_scenes(options.seven_scenes, *stretch) for stretch in STRETCHES]
    for folder in options.kitti or []:
        found.append(recordings.kitti(folder, options.kitti_frames))
    return [recording for recording in found if options.only in recording.name]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 2 without any recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of the tables and datasets")
    parser.add_argument("--seven-scenes", type=Path, help="folder of RedKitchen seq-01 with all 1,000 frames")
    parser.add_argument("--kitti", type=Path, action="append", help="folder of a KITTI odometry sequence; repeatable")
    parser.add_argument("--kitti-frames", type=int, default=51, help="frames of each KITTI sequence")
    parser.add_argument("--no-rendered", dest="rendered", action="store_false", help="recordings only; renders nothing")
    parser.add_argument("--only", default="", help="clips with this text in their name")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    clips = _clips(options)
    if not clips:
        print(f"no clip has {options.only!r} in its name", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Outcome]] = {}
    for number, recording in enumerate(clips):
        work = options.out / "datasets" / f"{number:02d}"
        shutil.rmtree(work, ignore_errors=True)  # of an earlier run
        results[recording.name] = {"fw-data": annotate(recording, work / "ours")}
        for mapper, outcome in colmap(recording, work / "colmap").items():
            results[recording.name][f"COLMAP, {mapper}"] = outcome
        stored = {clip: {name: asdict(found) for name, found in rows.items()} for clip, rows in results.items()}
        (options.out / "annotate.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        (options.out / "annotate.md").write_text(markdown(results), encoding="utf-8")
        print(markdown({recording.name: results[recording.name]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
