"""Errors of every point of every pair at one state of the alignment, and how much each point counts.

Every point is compared in the camera of the frame whose pixel it belongs to. Across the line of sight it should fall on
that pixel; along it, its log-depth should be what the pairs of that frame agree on. The two errors, and those of first
and second frames, have spreads of their own (networks know directions better than distances, and their own view better
than the other), measured here. Points count by a redescending robust weight, so pairs that disagree drop out.
Axis legend: e pairs, f frames, p pixels, o observations of one frame.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from fw_data.annotators.dust3r.alignment.clouds import PairClouds
from fw_data.annotators.dust3r.alignment.motions import masked_median
from fw_data.annotators.dust3r.alignment.start import State

KERNEL_WIDTH = 4.0
"""Errors this many spreads large count a quarter."""
MIN_ACROSS_PX, MIN_ALONG = 1e-4, 1e-6
"""Spreads never fall below these: rounding of the maps."""
INDEPENDENT_ERRORS = 10
"""From this many independent errors across per pair on, points count fully. A pair has thousands of points, but where
its motion is wrong, they err together; errors along vary over the image, as scale takes up what is common."""
_SIGMA_OF_MAD = 1.4826
_SIGMA_OF_RADIUS = 1 / 1.1774  # of the median length of a normal vector in the plane


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Errors of all points at one state, with their robust weights."""

    relative_rotation: Float64[np.ndarray, "e 3 3"]
    relative_translation: Float64[np.ndarray, "e 3"]
    moved: Float64[np.ndarray, "e p 3"]
    """Second frame's points in its own camera."""
    log_depth: tuple[Float64[np.ndarray, "e p"], Float64[np.ndarray, "e p"]]
    """Log-depths of the first and second frame's points, in their own cameras, in the unit of the scene."""
    across: tuple[Float64[np.ndarray, "e p 2"], Float64[np.ndarray, "e p 2"]]
    """Miss in pixels."""
    across_weight: tuple[Float64[np.ndarray, "e p"], Float64[np.ndarray, "e p"]]
    along_weight: tuple[Float64[np.ndarray, "e p"], Float64[np.ndarray, "e p"]]
    agreed: Float64[np.ndarray, "f p"]
    """Log-depth of every pixel."""
    spread: Float64[np.ndarray, "f p"]
    """Mean absolute difference from it."""
    across_px: tuple[float, float]
    """Typical error in pixels, of the first and the second frames' points."""
    along: tuple[float, float]
    """Typical relative error of the depth."""
    second_share: float
    """Factor on the weights across of second frames, below 1 where the points of a pair err together."""
    kept: Float64[np.ndarray, " e"]
    """Part of each pair's weight that survives."""


def measure(clouds: PairClouds, state: State, before: Residuals | None) -> Residuals:
    """Errors and weights of all points at a state; `before` is the last step's, for the robust mean of the depths."""
    # 1. all points in the camera of the frame that they belong to
    first, second = clouds.pairs.T
    rotation = state.rotation_w2c[second] @ state.rotation_w2c[first].swapaxes(1, 2)
    translation = state.translation_w2c[second] - (rotation @ state.translation_w2c[first][..., None])[..., 0]
    scale = np.exp(state.log_scale)[:, None, None]
    moved = (clouds.second * scale) @ rotation.swapaxes(1, 2) + translation[:, None]
    points = (clouds.first * scale, moved)
    focal = np.exp(state.log_focal)
    # 2. errors across the line of sight, in pixels, and log-depths
    bases, across, log_depth = [], [], []
    for cloud, weight, frame in zip(points, (clouds.first_weight, clouds.second_weight), (first, second), strict=True):
        ahead = cloud[..., 2] > 1e-9
        z = np.where(ahead, cloud[..., 2], 1)
        bases.append(weight * ahead)
        across.append(cloud[..., :2] / z[..., None] * focal[frame, None, None] - clouds.offsets_px)
        log_depth.append(np.log(z))
    # 3. robust weights across, with one spread per side
    radius = [np.sqrt((miss**2).sum(-1)) for miss in across]
    across_px = [
        max(_SIGMA_OF_RADIUS * _typical(miss, base), MIN_ACROSS_PX) for miss, base in zip(radius, bases, strict=True)
    ]
    across_weight = [_kernel(radius[side] / across_px[side]) * bases[side] for side in (0, 1)]
    # 4. the log-depth that the pairs of a frame agree on, pixel by pixel, and the errors along
    agreed = np.zeros((clouds.frames, clouds.first.shape[1]))
    spread = np.zeros_like(agreed)
    miss_along = [np.zeros_like(log_depth[0]), np.zeros_like(log_depth[1])]
    for frame in range(clouds.frames):
        its = (first == frame, second == frame)
        depths = np.concatenate([part[mask] for part, mask in zip(log_depth, its, strict=True)])
        weights = np.concatenate([part[mask] for part, mask in zip(across_weight, its, strict=True)])
        sigma = None if before is None else np.repeat(before.along, [mask.sum() for mask in its])[:, None]
        center, width = _agree(depths, weights, sigma)
        agreed[frame], spread[frame] = center, width
        for part, mask, out in zip(log_depth, its, miss_along, strict=True):
            out[mask] = part[mask] - center
    # 5. robust weights along, and the fraction of each pair that remains
    along = [
        max(_SIGMA_OF_MAD * _typical(np.abs(miss), base), MIN_ALONG)
        for miss, base in zip(miss_along, bases, strict=True)
    ]
    along_weight = [_kernel(miss_along[side] / along[side]) * across_weight[side] for side in (0, 1)]
    kept = np.minimum(*(along_weight[side].sum(1) / np.maximum(bases[side].sum(1), 1e-12) for side in (0, 1)))
    return Residuals(
        relative_rotation=rotation,
        relative_translation=translation,
        moved=moved,
        log_depth=(log_depth[0], log_depth[1]),
        across=(across[0], across[1]),
        across_weight=(across_weight[0], across_weight[1]),
        along_weight=(along_weight[0], along_weight[1]),
        agreed=agreed,
        spread=spread,
        across_px=(across_px[0], across_px[1]),
        along=(along[0], along[1]),
        second_share=_independent_share(across[1], across_weight[1], across_px[1]),
        kept=kept,
    )


def _agree(
    depths: Float64[np.ndarray, "o p"], weights: Float64[np.ndarray, "o p"], sigma: Float64[np.ndarray, "o 1"] | None
) -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " p"]]:
    """Robust mean over the observations of every pixel, starting at their median, and the mean distance from it."""
    center = masked_median(depths, weights > 0, axis=0)
    for _ in range(3):
        miss = depths - center
        width = sigma
        if width is None:
            width = _SIGMA_OF_MAD * masked_median(np.abs(miss), weights > 0, axis=0) + MIN_ALONG
        robust = _kernel(miss / width) * weights
        total = robust.sum(0)
        center = np.where(total > 1e-12, (robust * depths).sum(0) / np.maximum(total, 1e-12), center)
    total = np.maximum(weights.sum(0), 1e-12)
    return center, (np.abs(depths - center) * weights).sum(0) / total


def _independent_share(
    across: Float64[np.ndarray, "e p 2"], weight: Float64[np.ndarray, "e p"], across_px: float
) -> float:
    """Independent errors per pair, from the spread of the pairs' mean errors, over INDEPENDENT_ERRORS; at most 1."""
    mean = (weight[..., None] * across).sum(1) / np.maximum(weight.sum(1), 1e-12)[:, None]
    spread = _SIGMA_OF_MAD * float(np.median(np.abs(mean)))
    return min(1.0, (across_px / max(spread, 1e-12)) ** 2 / INDEPENDENT_ERRORS)


def _kernel(ratio: np.ndarray) -> np.ndarray:
    """Geman-McClure weight of errors in units of their spread."""
    return 1 / (1 + (ratio / KERNEL_WIDTH) ** 2) ** 2


def _typical(error: Float64[np.ndarray, "e p"], weight: Float64[np.ndarray, "e p"]) -> float:
    """Median over all points with weight."""
    values = error[weight > 0]
    return float(np.median(values)) if len(values) else 0.0
