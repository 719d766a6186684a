"""`fw-data annotate` on a real recording with ground truth: 81 frames of 7-Scenes RedKitchen.

    python -m tests.e2e.real_footage

prints camera, focal and depth figures, and the time. The recording is for development only and lies beside the
repository in ../shared/data. Its depth camera is not the colour camera: depth is moved to the colour camera (525 px,
27.5 mm to +x) before it is compared. Axis legend: f frames, h height, w width.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fw_data import ClipDataset
from fw_data.annotate import run
from fw_data.options import AnnotateOptions
from fw_geometry.align import fit_scale
from fw_geometry.metrics import ate
from fw_geometry.rigid import nearest_rotations

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
COLOUR_FOCAL_PX, DEPTH_FOCAL_PX, BASELINE_M = 525.0, 585.0, 0.0275


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the annotation of redkitchen.mp4 is worth."""

    frames: int
    """Frames posed, of 81."""
    ate_mm: float
    """Root mean square error of the camera centres after Sim(3) alignment; the path is 1.4 m long."""
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
    """(81, 4, 4) camera-to-world of the colour camera, metres."""
    poses = np.stack([np.loadtxt(path) for path in sorted((DATA / "redkitchen" / "pose").glob("*.txt"))])
    poses[:, :3, :3] = nearest_rotations(poses[:, :3, :3])
    offset = np.eye(4)
    offset[0, 3] = BASELINE_M
    return poses @ offset


def true_depth(path: Path) -> np.ndarray:
    """(480, 640) z-depth in metres as the colour camera sees it, 0 = none."""
    depth = np.asarray(Image.open(path)).astype(np.float64) / 1000
    depth[depth > 65] = 0
    v, u = np.nonzero(depth)
    z = depth[v, u]
    x = (u + 0.5 - 320) * z / DEPTH_FOCAL_PX - BASELINE_M
    y = (v + 0.5 - 240) * z / DEPTH_FOCAL_PX
    columns = np.floor(COLOUR_FOCAL_PX * x / z + 320).astype(int)
    rows = np.floor(COLOUR_FOCAL_PX * y / z + 240).astype(int)
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
    code = run(AnnotateOptions(raw=raw, out=work / "dataset"))
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


if __name__ == "__main__":
    if not DATA.is_dir():
        sys.exit(f"{DATA} is absent: the recording is not part of this repository")
    with tempfile.TemporaryDirectory() as folder:
        for name, value in vars(measure(Path(folder))).items():
            print(f"{name:14} {value:.4g}")
