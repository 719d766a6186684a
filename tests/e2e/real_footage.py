"""`fw-data annotate` on real recordings: 81 frames of 7-Scenes RedKitchen with ground truth, and four other videos.

    python -m tests.e2e.real_footage              camera, focal and depth figures of redkitchen, and the time
    python -m tests.e2e.real_footage --colmap     the same frames by COLMAP with its own SIFT, in one table with ours
    python -m tests.e2e.real_footage --all        what became of the other videos: figures, or the reason of the refusal

The recordings are for development only and lie beside the repository in ../shared/data. RedKitchen's depth camera is
not its color camera: depth is moved to the color camera (525 px, 27.5 mm to +x) before it is compared. Axis legend:
f frames, h height, w width.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from fw_data import ClipDataset
from fw_data.annotate.command import run
from fw_data.dataset.schema import Refusal
from fw_data.options import AnnotateOptions
from fw_geometry.align import fit_scale
from fw_geometry.metrics import ate
from fw_geometry.rigid import nearest_rotations

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
OTHERS = ("house.mp4", "valley.mp4", "dog.mp4", "sintel_30s.mp4")
COLOR_FOCAL_PX, DEPTH_FOCAL_PX, BASELINE_M = 525.0, 585.0, 0.0275


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the annotation of redkitchen.mp4 is worth."""

    frames: int
    """Frames posed, of 81."""
    ate_mm: float
    """Root mean square error of the camera centers after Sim(3) alignment; the path is 1.4 m long."""
    focal_px: float
    """Against 525."""
    abs_rel: float
    """Mean relative depth error, one scale for the clip, over the pixels with trusted depth and truth."""
    coverage: float
    """Share of the pixels with true depth that have a trusted depth."""
    abs_rel_60: float
    """AbsRel over the 60 % most confident pixels with true depth."""
    abs_rel_all: float
    """AbsRel over every pixel with an annotated depth and truth."""
    coverage_all: float
    """Share of the pixels with true depth that have any annotated depth."""
    seconds: float
    """Wall time of the whole command."""


def true_poses() -> np.ndarray:
    """(81, 4, 4) camera-to-world of the color camera, meters."""
    poses = np.stack([np.loadtxt(path) for path in sorted((DATA / "redkitchen" / "pose").glob("*.txt"))])
    poses[:, :3, :3] = nearest_rotations(poses[:, :3, :3])
    offset = np.eye(4)
    offset[0, 3] = BASELINE_M
    return poses @ offset


def true_depth(path: Path) -> np.ndarray:
    """(480, 640) z-depth in meters as the color camera sees it, 0 = none."""
    depth = np.asarray(Image.open(path)).astype(np.float64) / 1000
    depth[depth > 65] = 0
    v, u = np.nonzero(depth)
    z = depth[v, u]
    x = (u + 0.5 - 320) * z / DEPTH_FOCAL_PX - BASELINE_M
    y = (v + 0.5 - 240) * z / DEPTH_FOCAL_PX
    columns = np.floor(COLOR_FOCAL_PX * x / z + 320).astype(int)
    rows = np.floor(COLOR_FOCAL_PX * y / z + 240).astype(int)
    far_first = np.argsort(-z)
    inside = (columns >= 0) & (columns < 640) & (rows >= 0) & (rows < 480)
    far_first = far_first[inside[far_first]]
    seen = np.zeros((480, 640))
    seen[rows[far_first], columns[far_first]] = z[far_first]
    return seen


def measure(work: Path) -> Figures:
    """Annotate redkitchen.mp4 in `work` and compare with the truth."""
    raw = work / "raw"
    raw.mkdir(parents=True)
    (raw / "redkitchen.mp4").symlink_to(DATA / "raw" / "redkitchen.mp4")
    begun = time.monotonic()
    code = run(AnnotateOptions(raw=raw, out=work / "dataset", follow_links=True))
    seconds = time.monotonic() - begun
    assert code == 0, "redkitchen.mp4 was not annotated"
    clip = ClipDataset(work / "dataset").load(0)
    truth = np.stack([true_depth(path) for path in sorted((DATA / "redkitchen" / "depth").glob("*.png"))])
    known = truth > 0
    trusted, some = known & clip.valid & (clip.confidence > 0.3), known & clip.valid
    scale = fit_scale(clip.depth_m[trusted].astype(np.float64), truth[trusted])
    error = np.abs(scale * clip.depth_m - truth) / np.where(known, truth, 1)
    surest = np.sort(clip.confidence[some])[::-1]
    limit = surest[min(len(surest) - 1, int(0.6 * known.sum()))]
    return Figures(
        frames=len(clip),
        ate_mm=1000 * ate(clip.pose_c2w, true_poses()).rmse,
        focal_px=float(np.median(clip.K[:, 0, 0])),
        abs_rel=float(error[trusted].mean()),
        coverage=float(trusted.sum() / known.sum()),
        abs_rel_60=float(error[some & (clip.confidence >= limit)].mean()),
        abs_rel_all=float(error[some].mean()),
        coverage_all=float(some.sum() / known.sum()),
        seconds=seconds,
    )


@dataclass(frozen=True, kw_only=True)
class SparseFigures:
    """What cameras alone are worth."""

    posed: int
    ate_mm: float
    focal_px: float
    seconds: float


def measure_colmap(work: Path) -> SparseFigures:
    """COLMAP as it comes: SIFT, exhaustive matching, incremental mapping, one shared focal length and no distortion."""
    import pycolmap

    images = work / "images"
    images.mkdir(parents=True)
    with av.open(str(DATA / "raw" / "redkitchen.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            Image.fromarray(frame.to_ndarray(format="rgb24")).save(images / f"{index:06d}.png")
    begun = time.monotonic()
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    pycolmap.set_random_seed(0)
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
    database = work / "database.db"
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader)
    pycolmap.match_exhaustive(database)
    models = pycolmap.incremental_mapping(database, images, work)
    seconds = time.monotonic() - begun
    model = max(models.values(), key=lambda model: model.num_reg_images())
    found = sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)
    pose = np.tile(np.eye(4), (len(found), 1, 1))
    pose[:, :3] = [image.cam_from_world().inverse().matrix() for image in found]
    truth = true_poses()[[int(image.name[:6]) for image in found]]
    return SparseFigures(
        posed=len(found),
        ate_mm=1000 * ate(pose, truth).rmse,
        focal_px=float(next(iter(model.cameras.values())).params[0]),
        seconds=seconds,
    )


def print_beside_colmap(work: Path) -> None:
    """One row for COLMAP, one for ours (whose time includes dense depth of every frame)."""
    table = Table(title="redkitchen.mp4, 81 frames, focal 525 px")
    for heading in ("", "posed", "ATE mm", "focal px", "seconds"):
        table.add_column(heading, justify="right")
    colmap = measure_colmap(work / "colmap")
    ours = measure(work / "ours")
    for name, posed, row in (("COLMAP, SIFT", colmap.posed, colmap), ("fw-data annotate", ours.frames, ours)):
        table.add_row(name, str(posed), f"{row.ate_mm:.1f}", f"{row.focal_px:.1f}", f"{row.seconds:.0f}")
    Console().print(table)


def annotate_others(work: Path) -> Path:
    """Dataset of the videos that have no ground truth."""
    raw = work / "raw"
    raw.mkdir(parents=True)
    for name in OTHERS:
        (raw / name).symlink_to(DATA / "raw" / name)
    run(AnnotateOptions(raw=raw, out=work / "dataset", follow_links=True))
    return work / "dataset"


def print_outcomes(dataset: Path) -> None:
    """A row for each clip and for each thing that is not in the dataset."""
    table = Table("video", "frames", "outcome", title="videos without ground truth", show_lines=True)
    for record in ClipDataset(dataset).records if (dataset / "manifest.parquet").is_file() else []:
        focal = ClipDataset(dataset).cameras(record.id).K[0, 0, 0]
        fov_deg = 2 * np.degrees(np.arctan(record.width / 2 / focal))
        table.add_row(
            record.source,
            f"{record.start_frame}-{record.start_frame + record.num_frames - 1}",
            f"grade {record.grade}; focal {focal / max(record.width, record.height):.2f} of the long side "
            f"({fov_deg:.0f} degrees across); parallax {record.scores['parallax_deg']:.1f} degrees; "
            f"depth confirmed {record.scores['depth_confirmed']:.0%}",
        )
    for line in (dataset / "refusals.jsonl").read_text().splitlines():
        refusal = Refusal.model_validate_json(line)
        begin, count = refusal.start_frame, refusal.num_frames
        frames = "all" if begin is None or count is None else f"{begin}-{begin + count - 1}"
        table.add_row(refusal.source, frames, f"{refusal.status} ({refusal.code}): {refusal.reason}")
    Console(width=120).print(table)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--colmap", action="store_true", help="COLMAP's own SIFT run beside ours")
    parser.add_argument("--all", action="store_true", help="what becomes of the videos without ground truth")
    parser.add_argument("--out", type=Path, help="keep the datasets in this (new) folder")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is absent: the recordings are not part of this repository")
    with tempfile.TemporaryDirectory() as folder:
        work = options.out or Path(folder)
        if options.colmap:
            print_beside_colmap(work / "redkitchen")
        if options.all:
            print_outcomes(annotate_others(work / "others"))
        if not options.colmap and not options.all:
            for name, value in vars(measure(work / "redkitchen")).items():
                print(f"{name:14} {value:.4g}")


if __name__ == "__main__":
    main()
