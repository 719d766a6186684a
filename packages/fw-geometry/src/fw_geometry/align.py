"""Closed-form and robust fits in numpy float64: similarity transforms between point sets, scales between depth maps.

Axis legend: points are (n, 3) rows in any one frame, disparity is 1 / depth up to scale and shift.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fw_geometry.rigid import compose_poses, nearest_rotations

_TUKEY = 4.685  # 95 % efficiency on normal noise
_SIGMA_OF_MAD = 1.4826
_IRLS_STEPS = 20
_SPREAD_SAMPLES = 16384  # enough to know a spread to 1 %

Weights = Float[np.ndarray, "*n"] | Bool[np.ndarray, "*n"]
"""Non-negative weights or a mask of the same shape as the data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sim3:
    """A similarity transform: x -> scale * R x + t."""

    scale: float
    """Scale factor."""
    R: np.ndarray
    """(3, 3) rotation."""
    t: np.ndarray
    """(3,) translation in the target's unit."""

    def apply(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Transform points (..., 3)."""
        return self.scale * points @ self.R.T + self.t

    def apply_poses(self, pose_c2w: Float[np.ndarray, "*n 4 4"]) -> Float[np.ndarray, "*n 4 4"]:
        """Move cameras (..., 4, 4): centers are transformed, rotations turned, and they stay rigid."""
        return compose_poses(self.R @ pose_c2w[..., :3, :3], self.apply(pose_c2w[..., :3, 3]))

    def inverse(self) -> "Sim3":
        """The inverse transform."""
        return Sim3(scale=1 / self.scale, R=self.R.T, t=-(self.R.T @ self.t) / self.scale)


def umeyama(
    src: Float[np.ndarray, "n 3"],
    dst: Float[np.ndarray, "n 3"],
    weights: Float[np.ndarray, "n"] | Bool[np.ndarray, "n"] | None = None,
    with_scale: bool = True,
) -> Sim3:
    """The similarity (or rigid) transform that minimizes sum w |dst - (s R src + t)|^2 (Umeyama 1991).

    Args:
        src: points to move.
        dst: where they should be, row by row.
        weights: non-negative weights or a mask; all ones if None.
        with_scale: False fixes the scale at 1.

    Returns:
        Sim3 from src to dst. For points on one line the turn about that line is arbitrary but the fit is optimal.

    Raises:
        ValueError: no weight, numbers that are not finite, or src in one place so that its scale is undefined.
    """
    w = _checked_weights("umeyama", weights, (len(src),))
    if not (np.isfinite(src[w > 0]).all() and np.isfinite(dst[w > 0]).all()):
        raise ValueError("umeyama: points with weight are not all finite; mask them out")
    w = (w / w.sum())[:, None]
    src = np.where(w > 0, src, 0.0).astype(np.float64)
    dst = np.where(w > 0, dst, 0.0).astype(np.float64)
    mean_src, mean_dst = (w * src).sum(0), (w * dst).sum(0)
    a, b = src - mean_src, dst - mean_dst
    u, singular, vt = np.linalg.svd((w * b).T @ a)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * flip) @ vt
    scale = 1.0
    if with_scale:
        variance = float((w * a**2).sum())
        if variance <= (1e-12 * max(1.0, float(np.abs(mean_src).max()))) ** 2:
            raise ValueError("umeyama: the source points are all in one place; use with_scale=False")
        scale = float((singular * flip).sum() / variance)
    return Sim3(scale=scale, R=rotation, t=mean_dst - scale * rotation @ mean_src)


def align_poses(
    pred_c2w: Float[np.ndarray, "f 4 4"], gt_c2w: Float[np.ndarray, "f 4 4"], with_scale: bool = True
) -> Sim3:
    """The similarity from one camera path to another, with the rotation taken from where the cameras look.

    `umeyama` on the centers leaves the turn about a straight path open; here R is the least-squares rotation of the
    camera directions (the nearest rotation to the sum of R_gt R_pred^T), and scale and shift are the least-squares fit
    of the centers given R. On paths that agree exactly both give the same answer.

    Args:
        pred_c2w: source poses.
        gt_c2w: target poses, frame by frame.
        with_scale: fit the scale too; False keeps 1.

    Raises:
        ValueError: different lengths, no frames, or a scale that is undetermined (a path without motion) or is not
            positive (the paths run in opposite directions).
    """
    if len(pred_c2w) != len(gt_c2w) or len(gt_c2w) == 0:
        raise ValueError(f"align_poses: {len(pred_c2w)} and {len(gt_c2w)} poses; give one each for the same frames")
    turns = gt_c2w[:, :3, :3] @ np.swapaxes(pred_c2w[:, :3, :3], -1, -2)
    rotation = nearest_rotations(turns.sum(axis=0))
    src, dst = pred_c2w[:, :3, 3] @ rotation.T, gt_c2w[:, :3, 3]
    a, b = src - src.mean(axis=0), dst - dst.mean(axis=0)
    scale = 1.0
    if with_scale:
        spread = float((a**2).sum())
        if spread <= (1e-9 * max(1.0, float(np.abs(src).max()))) ** 2:
            raise ValueError("align_poses: the source path has no motion, hence no scale; use with_scale=False")
        scale = float((a * b).sum()) / spread
        if not scale > 0:
            raise ValueError(f"align_poses: the best scale is {scale:.3g}: the paths do not run the same way")
    return Sim3(scale=scale, R=rotation, t=dst.mean(axis=0) - scale * src.mean(axis=0))


def fit_scale(
    pred: Float[np.ndarray, "*n"],
    target: Float[np.ndarray, "*n"],
    weights: Weights | None = None,
    robust: bool = True,
) -> float:
    """The factor s > 0 with s * pred ~ target.

    Args:
        pred: values of any shape, for example a depth map or all coordinates of points.
        target: same shape.
        weights: non-negative weights or a mask; entries that are not finite are left out in any case.
        robust: False is plain least squares; True starts at the weighted median of target / pred and refines it by
            reweighted least squares (Tukey), so that almost half of the data may be wrong.

    Raises:
        ValueError: no usable entry, or the best factor is not positive.
    """
    w = _checked_weights("fit_scale", weights, pred.shape)
    use = (w > 0) & np.isfinite(pred) & np.isfinite(target) & (pred != 0)
    if not use.any():
        raise ValueError("fit_scale: no entry is finite, non-zero and has weight; check the mask")
    p, t, w = pred[use].astype(np.float64), target[use].astype(np.float64), w[use].astype(np.float64)
    if robust:
        scale = _weighted_median(t / p, w * np.abs(p))
        for _ in range(_IRLS_STEPS):
            tukey, _sigma = _tukey_weights(scale * p - t, w, floor=np.abs(t).max())
            scale, before = float((tukey * w * p * t).sum() / (tukey * w * p * p).sum()), scale
            if abs(scale - before) <= 1e-12 * abs(scale):
                break
    else:
        scale = float((w * p * t).sum() / (w * p * p).sum())
    if not scale > 0:
        raise ValueError(f"fit_scale: the best factor is {scale:.3g}, not positive; are the signs of the data right?")
    return scale


@dataclass(frozen=True, kw_only=True)
class ScaleShift:
    """The fit 1 / depth = scale * disparity + shift."""

    scale: float
    """Factor on the disparity, above zero."""
    shift: float
    """Offset in 1 / depth units."""
    inlier_fraction: float
    """Share of the weight within the robust band of the fit, 0 to 1; 1 for the plain fit."""
    residual: float
    """Weighted median of |scale * disparity + shift - 1 / depth| * depth: a relative depth error."""

    def depth(self, disparity: Float[np.ndarray, "*n"], depth_max: float | int) -> Float[np.ndarray, "*n"]:
        """Depth of a disparity map; what would be farther than depth_max (or behind infinity) becomes depth_max."""
        return 1.0 / np.maximum(self.scale * disparity + self.shift, 1.0 / depth_max)


def fit_scale_shift_disparity(
    disparity: Float[np.ndarray, "*n"],
    depth: Float[np.ndarray, "*n"],
    weights: Weights | None = None,
    robust: bool = True,
) -> ScaleShift:
    """Fit 1 / depth = s * disparity + t, the form in which affine-invariant depth networks are linear.

    Fitting in depth after inverting the disparity is wrong, and plain least squares follows the few far or wrong
    pixels. The robust fit takes the best of many two-point lines (least median of residuals; the points are chosen by
    rank, so the result is deterministic) and refines it by reweighted least squares (Tukey).

    Args:
        disparity: network output, larger is nearer, any shape.
        depth: z-depth, same shape; entries that are not finite and positive are left out.
        weights: non-negative weights or a mask.
        robust: False is plain weighted least squares.

    Raises:
        ValueError: fewer than two usable entries, constant disparity, or s <= 0 (depth and disparity disagree).
    """
    where = "fit_scale_shift_disparity"
    w = _checked_weights(where, weights, disparity.shape)
    use = (w > 0) & np.isfinite(disparity) & np.isfinite(depth) & (depth > 0)
    d, w = disparity[use].astype(np.float64), w[use].astype(np.float64)
    y = 1.0 / depth[use].astype(np.float64)
    if len(d) < 2 or np.ptp(d) <= 1e-12 * np.abs(d).max():
        raise ValueError(
            f"{where}: {len(d)} usable entries with disparity spread {np.ptp(d) if len(d) else 0.0:.3g}; "
            "two different disparities are needed, check mask and depth"
        )
    inliers = 1.0
    if robust:
        scale, shift = _least_median_line(d, y, w)
        tukey = np.ones_like(d)
        for _ in range(_IRLS_STEPS):
            tukey, _sigma = _tukey_weights(scale * d + shift - y, w, floor=np.abs(y).max())
            before = scale
            scale, shift = _weighted_line(d, y, w * tukey, fallback=(scale, shift))
            if abs(scale - before) <= 1e-12 * abs(scale):
                break
        inliers = float(w[tukey > 0].sum() / w.sum())
    else:
        scale, shift = _weighted_line(d, y, w)
    if not scale > 0:
        raise ValueError(
            f"{where}: scale is {scale:.3g}, not positive: disparity does not grow as depth shrinks; "
            "is the first argument a depth map?"
        )
    residual = _weighted_median(np.abs(scale * d + shift - y) / y, w)
    return ScaleShift(scale=scale, shift=shift, inlier_fraction=inliers, residual=residual)


def _checked_weights(where: str, weights: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if weights is None:
        w = np.ones(shape)
    else:
        w = weights.astype(np.float64)
        if w.shape != shape:
            raise ValueError(f"{where}: weights have shape {w.shape}, the data {shape}; they must agree")
        if not np.isfinite(w).all() or w.min(initial=0.0) < 0:
            raise ValueError(f"{where}: weights must be finite and not negative")
    if not w.sum() > 0:
        raise ValueError(f"{where}: no data has weight; the mask is empty")
    return w


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


def _spread_indices(count: int, most: int) -> np.ndarray:
    """At most `most` indices below `count`, evenly spread."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(int)


def _tukey_weights(residual: np.ndarray, weights: np.ndarray, floor: float) -> tuple[np.ndarray, float]:
    """Tukey's biweight at the spread of the residuals; the spread never falls below rounding noise of `floor`."""
    some = _spread_indices(len(residual), _SPREAD_SAMPLES)
    sigma = max(_SIGMA_OF_MAD * _weighted_median(np.abs(residual[some]), weights[some]), 1e-12 * float(floor))
    scaled = residual / (_TUKEY * sigma)
    return np.where(np.abs(scaled) < 1, (1 - scaled**2) ** 2, 0.0), sigma


def _weighted_line(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, fallback: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Least-squares slope and offset; `fallback` if the weighted x do not spread."""
    total = w.sum()
    mean_x, mean_y = (w * x).sum() / total, (w * y).sum() / total
    spread = float((w * (x - mean_x) ** 2).sum() / total)
    if fallback is not None and spread <= (1e-9 * float(np.abs(x).max())) ** 2:
        return fallback
    slope = float((w * (x - mean_x) * (y - mean_y)).sum() / total / spread)
    return slope, float(mean_y - slope * mean_x)


def _least_median_line(x: np.ndarray, y: np.ndarray, w: np.ndarray, lines: int = 256, checks: int = 2048) -> tuple:
    """The line with the smallest weighted median residual among many through two points half the ranks apart."""
    order = np.argsort(x, kind="stable")
    half = len(x) // 2
    low = np.unique(np.linspace(0, len(x) - 1 - half, lines).astype(int))
    i, j = order[low], order[low + half]
    apart = np.abs(x[j] - x[i]) > 1e-9 * np.ptp(x)
    if not apart.any():
        i, j, apart = order[:1], order[-1:], np.array([True])
    slope = (y[j] - y[i])[apart] / (x[j] - x[i])[apart]
    shift = y[i][apart] - slope * x[i][apart]
    some = _spread_indices(len(x), checks)
    cost = [_weighted_median(np.abs(s * x[some] + t - y[some]), w[some]) for s, t in zip(slope, shift, strict=True)]
    best = int(np.argmin(cost))
    return float(slope[best]), float(shift[best])
