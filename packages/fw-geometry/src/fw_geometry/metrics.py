"""Metrics of cameras, depth maps and points for the evaluation reports, in numpy float64.

Axis legend: poses are camera-to-world, OpenCV axes (x right, y down, z forward), K in pixels with centers at +0.5.
Rotations are made orthonormal first and angles are atan2 of the skew part, so that poses that are rigid only to 1e-4
(as many datasets store them) do not show false angles.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from fw_geometry.align import Sim3, umeyama
from fw_geometry.rigid import compose_poses, invert_poses, nearest_rotations, rotation_angles

Alignment = Literal["sim3", "se3", "none"]
"""Transform fitted before a path is compared: similarity, rigid motion, none."""

_ON_PIXEL = 1e-6  # a position this near a pixel center is that pixel, so that rounding does not pull in a neighbor


@dataclass(frozen=True, kw_only=True, eq=False)
class AteResult:
    """Absolute trajectory error, in the unit of the ground truth."""

    rmse: float
    """Root mean square distance of the camera centers."""
    mean: float
    """Mean distance."""
    median: float
    """Median distance."""
    max: float
    """Largest distance."""
    errors: np.ndarray
    """(f,) distance per frame."""
    alignment: Sim3
    """The transform that was applied to the prediction."""


class RpeResult(NamedTuple):
    """Relative pose error over frame pairs, root mean squares."""

    trans: float
    """Translation drift per pair, in the unit of the ground truth."""
    rot_deg: float
    """Rotation drift per pair in degrees."""


class CameraError(NamedTuple):
    """Deviation of a path from the requested one, independent of scale."""

    rotation_deg: float
    """Mean angle between the rotations in degrees."""
    translation_deg: float
    """Mean angle between the directions from the first camera in degrees; NaN if the true camera does not move."""


@dataclass(frozen=True, kw_only=True)
class ConsistencyResult:
    """Agreement of depth maps across frames, over all pixels that could be compared."""

    median: float
    """Median of |z_moved - z_seen| / z_seen."""
    mean: float
    """Mean of the same."""
    inlier_fraction: float
    """Share of the comparisons below the threshold, 0 to 1."""
    overlap: float
    """Share of the valid pixels that could be compared in the other frame, 0 to 1."""
    comparisons: int
    """Number of pixels compared; 0 makes the errors NaN."""


def ate(
    pred_c2w: Float[np.ndarray, "f 4 4"], gt_c2w: Float[np.ndarray, "f 4 4"], align: Alignment = "sim3"
) -> AteResult:
    """Absolute trajectory error of camera centers after alignment (Sturm et al. 2012, Umeyama alignment).

    Args:
        pred_c2w: estimated poses.
        gt_c2w: true poses, frame by frame.
        align: "sim3" (scale, rotation, translation), "se3" or "none". If one of the two paths does not move, no scale
            follows from it and "sim3" acts as "se3" (a free scale would shrink any path to a point and report 0).

    Raises:
        ValueError: different lengths or no frames.
    """
    _check_pair("ate", pred_c2w, gt_c2w)
    fit = _alignment(pred_c2w, gt_c2w, align)
    errors = np.linalg.norm(fit.apply(pred_c2w[:, :3, 3]) - gt_c2w[:, :3, 3], axis=-1)
    return AteResult(
        rmse=float(np.sqrt((errors**2).mean())),
        mean=float(errors.mean()),
        median=float(np.median(errors)),
        max=float(errors.max()),
        errors=errors,
        alignment=fit,
    )


def rpe(
    pred_c2w: Float[np.ndarray, "f 4 4"],
    gt_c2w: Float[np.ndarray, "f 4 4"],
    delta: int = 1,
    align: Alignment = "sim3",
) -> RpeResult:
    """Relative pose error: how far the motion from frame i to i + delta is off, root mean square over i.

    Args:
        pred_c2w: estimated poses.
        gt_c2w: true poses.
        delta: frames between the two poses of a pair.
        align: "sim3" brings the prediction to the scale of the truth first, as published tables do; a rigid alignment
            does not change the result.

    Raises:
        ValueError: different lengths, or not more than delta frames.
    """
    _check_pair("rpe", pred_c2w, gt_c2w)
    if not 1 <= delta < len(gt_c2w):
        raise ValueError(f"rpe: delta is {delta} for {len(gt_c2w)} frames; it must be between 1 and frames - 1")
    pred = _rigid(_alignment(pred_c2w, gt_c2w, align).apply_poses(pred_c2w))
    truth = _rigid(gt_c2w)
    step_pred = invert_poses(pred[:-delta]) @ pred[delta:]
    step_gt = invert_poses(truth[:-delta]) @ truth[delta:]
    error = invert_poses(step_gt) @ step_pred
    trans = np.linalg.norm(error[:, :3, 3], axis=-1)
    rot = np.degrees(rotation_angles(error[:, :3, :3]))
    return RpeResult(float(np.sqrt((trans**2).mean())), float(np.sqrt((rot**2).mean())))


def camera_error(pred_c2w: Float[np.ndarray, "f 4 4"], gt_c2w: Float[np.ndarray, "f 4 4"]) -> CameraError:
    """Scale-free camera control error: both paths are taken relative to their first frame, then compared per frame.

    Rotation is the angle of R_gt^T R_pred, translation the angle between the two directions from the first camera to
    the current one; means over frames 1 and on. Frames whose true camera is at the start (within 1e-6 of the
    longest way) have no direction and are left out of the second; a prediction that rests while the truth moves
    counts 90 degrees.

    Raises:
        ValueError: different lengths or fewer than two frames.
    """
    _check_pair("camera_error", pred_c2w, gt_c2w)
    if len(gt_c2w) < 2:
        raise ValueError("camera_error: one frame has no motion; give at least two")
    pred, truth = _rigid(pred_c2w), _rigid(gt_c2w)
    pred, truth = invert_poses(pred[0]) @ pred[1:], invert_poses(truth[0]) @ truth[1:]
    turn = np.swapaxes(truth[:, :3, :3], -1, -2) @ pred[:, :3, :3]
    rotation = float(np.degrees(rotation_angles(turn)).mean())
    t_pred, t_gt = pred[:, :3, 3], truth[:, :3, 3]
    n_pred, n_gt = np.linalg.norm(t_pred, axis=-1), np.linalg.norm(t_gt, axis=-1)
    moves = n_gt > 1e-6 * max(n_gt.max(), np.finfo(np.float64).tiny)
    if not moves.any():
        return CameraError(rotation, float("nan"))
    angle = np.arctan2(np.linalg.norm(np.cross(t_pred, t_gt), axis=-1), (t_pred * t_gt).sum(-1))
    angle = np.where(n_pred > 1e-6 * n_pred.max(initial=0.0), angle, np.pi / 2)
    return CameraError(rotation, float(np.degrees(angle[moves]).mean()))


def abs_rel(
    pred: Float[np.ndarray, "*n"], gt: Float[np.ndarray, "*n"], mask: Bool[np.ndarray, "*n"] | None = None
) -> float:
    """Mean |pred - gt| / gt over pixels with mask and a true depth above 0.

    Raises:
        ValueError: no such pixel, or a prediction there that is not finite.
    """
    p, g = _valid_depths("abs_rel", pred, gt, mask)
    return float((np.abs(p - g) / g).mean())


def delta_accuracy(
    pred: Float[np.ndarray, "*n"],
    gt: Float[np.ndarray, "*n"],
    mask: Bool[np.ndarray, "*n"] | None = None,
    threshold: float | int = 1.25,
) -> float:
    """Share (0 to 1) of pixels with max(pred / gt, gt / pred) < threshold; predictions of 0 or less count as missed.

    Raises:
        ValueError: no pixel with mask and true depth above 0, or a prediction there that is not finite.
    """
    p, g = _valid_depths("delta_accuracy", pred, gt, mask)
    positive = p > 0
    ratio = np.where(positive, p, 1.0) / g
    return float((positive & (np.maximum(ratio, 1 / ratio) < threshold)).mean())


def chamfer(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"]) -> float:
    """Symmetric Chamfer distance: half the sum of the two mean nearest-neighbor distances, in the points' unit.

    Raises:
        ValueError: an empty or not finite point set.
    """
    a_to_b, b_to_a = point_distances(a, b)
    return float((a_to_b.mean() + b_to_a.mean()) / 2)


def point_distances(
    a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]]:
    """Distance of every point to the nearest one of the other set: (a to b (n,), b to a (m,)).

    With a the prediction and b the truth, the means are accuracy and completeness.

    Raises:
        ValueError: an empty or not finite point set.
    """
    for name, points in (("a", a), ("b", b)):
        if len(points) == 0 or not np.isfinite(points).all():
            raise ValueError(f"point_distances: set {name} is empty or not finite; mask invalid points out first")
    return np.asarray(KDTree(b).query(a)[0]), np.asarray(KDTree(a).query(b)[0])


def reprojection_consistency(
    depth: Float[np.ndarray, "f h w"],
    K: Float[np.ndarray, "f 3 3"],
    pose_c2w: Float[np.ndarray, "f 4 4"],
    *,
    mask: Bool[np.ndarray, "f h w"] | None = None,
    gap: int = 1,
    threshold: float | int = 0.05,
    edge_ratio: float | int = 1.1,
) -> ConsistencyResult:
    """3D consistency of depth and cameras: points of frame i, seen from frame i + gap, against the depth stored there.

    Depth there is read between pixel centers, linearly in 1 / z (exact on planes). It is not read next to invalid
    pixels or across a depth edge (neighbors further apart than edge_ratio). Occluded points are compared like all
    others and count as errors: read the median and the inlier fraction.

    Args:
        depth: z-depth, 0 = invalid.
        K: intrinsics in pixels.
        pose_c2w: camera-to-world.
        mask: pixels to use, for example the static ones.
        gap: frames between the two views.
        threshold: relative error below which a comparison is an inlier.
        edge_ratio: largest ratio of the four neighbors that is still one surface.

    Raises:
        ValueError: shapes that do not match, or not more than gap frames.
    """
    frames, height, width = depth.shape
    if not 1 <= gap < frames:
        raise ValueError(f"reprojection_consistency: gap is {gap} for {frames} frames; it must be 1 to frames - 1")
    valid = np.isfinite(depth) & (depth > 0)
    if mask is not None:
        valid &= mask
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    parts, tried = [], 0
    for i in range(frames - gap):
        j = i + gap
        z = depth[i][valid[i]].astype(np.float64)
        tried += len(z)
        rays = np.stack([columns[valid[i]], rows[valid[i]], np.ones_like(z)], axis=-1) @ np.linalg.inv(K[i]).T
        move = invert_poses(pose_c2w[j]) @ pose_c2w[i]
        points = (rays * z[:, None]) @ move[:3, :3].T + move[:3, 3]
        points = points[points[:, 2] > 0]
        pixels = points @ K[j].T
        seen, found = _sample_depth(depth[j], valid[j], pixels[:, :2] / pixels[:, 2:], edge_ratio)
        parts.append(np.abs(points[found, 2] - seen) / seen)
    errors = np.concatenate(parts)
    if len(errors) == 0:
        nan = float("nan")
        return ConsistencyResult(median=nan, mean=nan, inlier_fraction=nan, overlap=0.0, comparisons=0)
    return ConsistencyResult(
        median=float(np.median(errors)),
        mean=float(errors.mean()),
        inlier_fraction=float((errors < threshold).mean()),
        overlap=len(errors) / tried,
        comparisons=len(errors),
    )


def _sample_depth(
    depth: np.ndarray, valid: np.ndarray, uv: np.ndarray, edge_ratio: float | int
) -> tuple[np.ndarray, np.ndarray]:
    """Depth at uv where the neighbors it is read from are valid and of one surface, and which of the uv these are."""
    height, width = depth.shape
    nearest = np.round(uv - 0.5)
    x, y = np.where(np.abs(uv - 0.5 - nearest) < _ON_PIXEL, nearest, uv - 0.5).T
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    x, y = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = x - x0, y - y0
    share = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    corners = [(y0, x0), (y0, x1), (y1, x0), (y1, x1)]
    all_valid = inside & (np.stack([valid[at] for at in corners]) | (share == 0)).all(axis=0)
    z = np.stack([depth[at] for at in corners]).astype(np.float64)
    main = np.take_along_axis(z, share.argmax(axis=0)[None], axis=0)
    z = np.where(all_valid, np.where(share > 0, z, main), 1.0)
    found = all_valid & (z.max(axis=0) <= edge_ratio * z.min(axis=0))
    return 1 / (share / z).sum(axis=0)[found], found


def _alignment(pred_c2w: np.ndarray, gt_c2w: np.ndarray, align: Alignment) -> Sim3:
    if align not in get_args(Alignment):
        raise ValueError(f"align is {align!r}; use one of {', '.join(get_args(Alignment))}")
    if align == "none":
        return Sim3(scale=1.0, R=np.eye(3), t=np.zeros(3))
    pred, truth = pred_c2w[:, :3, 3], gt_c2w[:, :3, 3]
    both_move = all(np.ptp(c, axis=0).max() > 1e-9 * max(1.0, np.abs(c).max()) for c in (pred, truth))
    return umeyama(pred, truth, with_scale=align == "sim3" and both_move)


def _rigid(pose: np.ndarray) -> np.ndarray:
    return compose_poses(nearest_rotations(pose[..., :3, :3]), pose[..., :3, 3])


def _check_pair(where: str, pred: np.ndarray, gt: np.ndarray) -> None:
    if len(pred) != len(gt) or len(gt) == 0:
        raise ValueError(f"{where}: {len(pred)} estimated and {len(gt)} true poses; give one each for the same frames")
    if not (np.isfinite(pred).all() and np.isfinite(gt).all()):
        raise ValueError(f"{where}: poses are not all finite; drop the frames without a pose from both paths")


def _valid_depths(where: str, pred: np.ndarray, gt: np.ndarray, mask: np.ndarray | None) -> tuple:
    valid = np.isfinite(gt) & (gt > 0)
    if mask is not None:
        valid &= mask
    if not valid.any():
        raise ValueError(f"{where}: no pixel has mask and a true depth above 0")
    p = pred[valid].astype(np.float64)
    if not np.isfinite(p).all():
        raise ValueError(f"{where}: the prediction is not finite at {int((~np.isfinite(p)).sum())} valid pixels")
    return p, gt[valid].astype(np.float64)
