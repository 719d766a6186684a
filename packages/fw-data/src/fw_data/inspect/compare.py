"""The `compare` command: how right an annotated dataset is, against the exact truth of the toy scenes it comes from.

Axis legend: f frames, h height, w width. ClipTruth files are those of `fw-data toy`: truth/NAME.npz with depth_m, K and
pose_c2w at the resolution of the video.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from fw_data.dataset.clip import Clip
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import DatasetCard
from fw_data.media.resize import ResizeCrop, place, size_of_record
from fw_geometry.align import fit_scale
from fw_geometry.camera import Trajectory
from fw_geometry.metrics import abs_rel, ate

TRUSTED = 0.3
"""Depth counts as annotated where its confidence is above this."""
SUREST = 0.8
"""Part of the pixels with true depth over which `abs_rel_surest` is taken."""


@dataclass(frozen=True, kw_only=True)
class CompareTruthOptions:
    """Cameras and depth of a dataset against the exact ground truth that `fw-data toy` wrote."""

    dataset: Positional[Path]
    """Folder that `fw-data annotate` wrote."""
    truth: Positional[Path]
    """The toy folder's truth/."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class ClipAccuracy:
    """One annotated clip against its ground truth."""

    source: str
    """The video, relative to the raw directory."""
    frames: int
    """Frames compared."""
    path_length: float
    """Length of the true camera path, in the truth's unit."""
    ate_percent: float
    """Root mean square error of the camera centers after Sim(3) alignment, in percent of the path length."""
    focal_error_percent: float
    """Estimated against true focal length."""
    abs_rel: float
    """Mean relative depth error over the covered pixels, after one scale for the whole clip."""
    abs_rel_surest: float
    """Mean relative depth error over the surest 80 % of all pixels with true depth, in the order of their confidence; a
    pixel without annotated depth counts as 1."""
    good_depth: float
    """Share (0 to 1) of all pixels with true depth whose own relative depth error is at most 0.05."""
    coverage: float
    """Share (0 to 1) of the pixels with true depth for which a trusted depth was annotated."""


@dataclass(frozen=True, kw_only=True)
class ClipTruth:
    """Exact ground truth of the stored frames of one clip."""

    depth_m: np.ndarray
    """(f, h, w) z-depth at the stored size, 0 = none."""
    trajectory: Trajectory
    """Cameras of the stored frames."""


def run(options: CompareTruthOptions) -> int:
    """Print one line per clip and the medians; returns the exit code."""
    from rich.table import Table

    from fw_data.console import stdout_console

    rows = compare_with_truth(options.dataset, options.truth)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    table = Table(title=f"{options.dataset} against {options.truth}")
    table.add_column("video")
    for heading in HEADINGS[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*cells(row))
    if rows:
        table.add_section()
        table.add_row(*cells(median_of(rows)))
    stdout_console().print(table)
    return 0


HEADINGS = (
    "video",
    "frames",
    "path",
    "ATE % of path",
    "focal error %",
    "AbsRel",
    f"AbsRel @ {SUREST:.0%} surest",
    "pixels within 5 %",
    "coverage",
)
"""Columns of `cells`."""


def cells(row: ClipAccuracy) -> tuple[str, ...]:
    """One row of the table, as text."""
    return (
        row.source,
        str(row.frames),
        f"{row.path_length:.2f}",
        f"{row.ate_percent:.2f}",
        f"{row.focal_error_percent:.2f}",
        f"{row.abs_rel:.4f}",
        f"{row.abs_rel_surest:.4f}",
        f"{row.good_depth:.1%}",
        f"{row.coverage:.1%}",
    )


def median_of(rows: list[ClipAccuracy]) -> ClipAccuracy:
    """The median of every figure; needs at least one row."""
    figures = {f.name: float(np.median([getattr(row, f.name) for row in rows])) for f in fields(ClipAccuracy)[2:]}
    return ClipAccuracy(source="median", frames=int(np.median([row.frames for row in rows])), **figures)


def compare_with_truth(dataset: str | Path, truth_dir: str | Path) -> list[ClipAccuracy]:
    """Compare every clip of a dataset with TRUTH_DIR/NAME.npz, NAME being the stem of its video.

    Raises:
        FileNotFoundError: a clip without a truth file; the message names it.
    """
    clips = ClipDataset(dataset)
    card = DatasetCard.model_validate_json((clips.path / "dataset.json").read_text())
    size = size_of_record(str(card.config.get("size", "auto")))
    rows = []
    for record in clips.records:
        clip = clips.load(record.id)
        path = Path(truth_dir) / f"{Path(record.source).stem}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: no ground truth for {record.source}")
        placement = place(record.source_height, record.source_width, size)
        rows.append(compare_clip(record.source, clip, read_truth(path, placement, clip.frame_index)))
    return rows


def read_truth(path: Path, placement: ResizeCrop, frame_index: np.ndarray) -> ClipTruth:
    """Ground truth of some frames of a toy video, moved to the stored size."""
    with np.load(path, allow_pickle=False) as arrays:
        depth_m, K, pose_c2w = (arrays[name][frame_index] for name in ("depth_m", "K", "pose_c2w"))
    height, width = depth_m.shape[1:]
    trajectory = Trajectory(
        pose_c2w=pose_c2w.astype(np.float64), K=K.astype(np.float64), width=width, height=height, units="metric"
    )
    stored = np.stack([placement.depth(frame.astype(np.float32)) for frame in depth_m])
    return ClipTruth(depth_m=stored, trajectory=placement.trajectory(trajectory))


def compare_clip(source: str, clip: Clip, truth: ClipTruth) -> ClipAccuracy:
    """The figures of one clip. The scale of the depth is one robust factor per clip (depth is known up to scale)."""
    known = truth.depth_m > 0
    covered = known & clip.valid & (clip.confidence > TRUSTED)
    error, surest, good = float("nan"), float("nan"), 0.0
    if covered.any():
        scale = fit_scale(clip.depth_m[covered].astype(np.float64), truth.depth_m[covered].astype(np.float64))
        depth = clip.depth_m * np.float32(scale)
        error = abs_rel(depth.astype(np.float64), truth.depth_m.astype(np.float64), covered)
        surest = _abs_rel_of_surest(depth[known], clip.confidence[known], truth.depth_m[known])
        close = np.abs(depth - truth.depth_m)[covered] <= 0.05 * truth.depth_m[covered]
        good = float(close.sum() / known.sum())
    path_length = truth.trajectory.path_length()
    centers = ate(clip.pose_c2w, truth.trajectory.pose_c2w)
    focal = clip.K[:, 0, 0] / truth.trajectory.K[:, 0, 0]
    return ClipAccuracy(
        source=source,
        frames=len(clip),
        path_length=path_length,
        ate_percent=100 * centers.rmse / max(path_length, 1e-12),
        focal_error_percent=100 * float(np.abs(focal - 1).mean()),
        abs_rel=error,
        abs_rel_surest=surest,
        good_depth=good,
        coverage=float(covered.sum() / max(known.sum(), 1)),
    )


def _abs_rel_of_surest(depth: np.ndarray, confidence: np.ndarray, truth: np.ndarray) -> float:
    """Mean relative error of the SUREST part of some pixels; depth 0 (none) comes last and is wrong by 1."""
    error = np.abs(depth - truth) / truth
    surest_first = np.argsort(-np.where(depth > 0, confidence, -1), kind="stable")
    return float(error[surest_first[: max(1, round(SUREST * len(truth)))]].mean())
