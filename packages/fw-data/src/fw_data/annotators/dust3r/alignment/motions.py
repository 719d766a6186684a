"""The motion of every pair from its point maps, and small rigid motions and projections in batches.

A motion maps points of the first frame's camera into the second's. Axis legend: e pairs, f frames, p pixels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from fw_data.annotators.dust3r.alignment.clouds import PairClouds

_POSE_STEPS = 6
_KERNEL_WIDTH = 3.0


def pair_motions(
    clouds: PairClouds, focal: Float64[np.ndarray, " f"], shape: Float64[np.ndarray, "f p"]
) -> tuple[Float64[np.ndarray, "e 3 3"], Float64[np.ndarray, "e 3"], Float64[np.ndarray, " e"]]:
    """Motion of every pair, in its own unit, and how much of its weight the motion explains.

    Closed-form fit of the second frame's points to their place in its own camera (lines of sight times the depth
    shape), then reweighted Gauss-Newton steps on where the points fall in the second image.
    """
    # 1. closed form: second frame's points onto its own lines of sight times its depth shape
    second = clouds.pairs[:, 1]
    rays = np.concatenate([clouds.offsets_px, np.ones((len(clouds.offsets_px), 1))], axis=1)
    rays = rays[None] * np.stack([1 / focal, 1 / focal, np.ones_like(focal)], axis=1)[:, None]
    known = np.isfinite(shape)
    target = rays * np.exp(np.where(known, shape, 0))[..., None]
    weight = clouds.second_weight * known[second]
    rotation, translation = _similarities(clouds.second, target[second], weight)
    # 2. reweighted Gauss-Newton on the projections into the second image
    fitted = np.zeros(len(second))
    for _ in range(_POSE_STEPS):
        moved = clouds.second @ rotation.swapaxes(1, 2) + translation[:, None]
        seen = projection_rows(moved, focal[second])
        miss = seen.slope * focal[second, None, None] - clouds.offsets_px
        base = clouds.second_weight * (moved[..., 2] > 0)
        spread = np.maximum(1.4826 * masked_median(np.abs(miss).max(-1), base > 0, axis=1), 1e-6)
        ratio = (miss**2).sum(-1) / (_KERNEL_WIDTH * spread[:, None]) ** 2
        kernel = 1 / (1 + ratio) ** 2
        fitted = (base * kernel).sum(1) / np.maximum(base.sum(1), 1e-12)
        root = np.sqrt(base * kernel)[..., None, None]
        rows = (root * seen.rows).reshape(len(second), -1, 6)
        values = (root[..., 0] * miss).reshape(len(second), -1, 1)
        normal = rows.swapaxes(1, 2) @ rows
        damping = 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(6) + 1e-12 * np.eye(6)
        step = -np.linalg.solve(normal + damping, rows.swapaxes(1, 2) @ values)[..., 0]
        turn, shift = rigid_step(step)
        rotation, translation = turn @ rotation, (turn @ translation[..., None])[..., 0] + shift
    return rotation, translation, fitted


@dataclass(frozen=True)
class Projection:
    """Projections of points and their derivative by a small rigid motion (turn, then shift) of the points."""

    slope: Float64[np.ndarray, "e p 2"]
    """x / z and y / z."""
    rows: Float64[np.ndarray, "e p 2 6"]
    """Derivative of focal * slope."""


def projection_rows(points: Float64[np.ndarray, "e p 3"], focal: Float64[np.ndarray, " e"]) -> Projection:
    """Projection of points that are in the camera's axes; points behind the camera get rows all the same."""
    depth = points[..., 2]
    inverse = 1 / np.where(np.abs(depth) > 1e-9, depth, 1e-9)
    x, y = points[..., 0] * inverse, points[..., 1] * inverse
    rows = np.zeros((*x.shape, 2, 6))
    rows[..., 0, 0], rows[..., 0, 1], rows[..., 0, 2] = -x * y, 1 + x * x, -y
    rows[..., 1, 0], rows[..., 1, 1], rows[..., 1, 2] = -1 - y * y, x * y, x
    rows[..., 0, 3], rows[..., 0, 5] = inverse, -x * inverse
    rows[..., 1, 4], rows[..., 1, 5] = inverse, -y * inverse
    rows *= focal[:, None, None, None]
    return Projection(np.stack([x, y], axis=-1), rows)


def rigid_step(step: Float64[np.ndarray, "e 6"]) -> tuple[Float64[np.ndarray, "e 3 3"], Float64[np.ndarray, "e 3"]]:
    """Rotation (exponential of the first three numbers) and shift (the last three)."""
    angle = np.linalg.norm(step[:, :3], axis=1)
    axis = step[:, :3] / np.maximum(angle, 1e-300)[:, None]
    cross = cross_matrices(axis)
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross), step[:, 3:]


def cross_matrices(vectors: Float64[np.ndarray, "e 3"]) -> Float64[np.ndarray, "e 3 3"]:
    """[v]x, with [v]x w = v x w."""
    result = np.zeros((len(vectors), 3, 3))
    result[:, 2, 1], result[:, 1, 2] = vectors[:, 0], -vectors[:, 0]
    result[:, 0, 2], result[:, 2, 0] = vectors[:, 1], -vectors[:, 1]
    result[:, 1, 0], result[:, 0, 1] = vectors[:, 2], -vectors[:, 2]
    return result


def _similarities(
    source: Float64[np.ndarray, "e p 3"], target: Float64[np.ndarray, "e p 3"], weight: Float64[np.ndarray, "e p"]
) -> tuple[Float64[np.ndarray, "e 3 3"], Float64[np.ndarray, "e 3"]]:
    """Weighted similarity of each pair of point sets (Umeyama), as the rigid motion in the unit of the source."""
    share = (weight / np.maximum(weight.sum(1, keepdims=True), 1e-12))[..., None]
    mean_source, mean_target = (share * source).sum(1), (share * target).sum(1)
    a, b = source - mean_source[:, None], target - mean_target[:, None]
    u, values, vt = np.linalg.svd((share * b).swapaxes(1, 2) @ a)
    flip = np.ones((len(u), 3))
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * flip[:, None]) @ vt
    scale = (values * flip).sum(1) / np.maximum((share * a**2).sum((1, 2)), 1e-12)
    moved = (rotation @ mean_source[..., None])[..., 0]
    return rotation, mean_target / np.maximum(scale, 1e-12)[:, None] - moved


def masked_median(values: np.ndarray, known: np.ndarray, axis: int) -> np.ndarray:
    """Lower median over the known values along an axis; 0 without known values."""
    ordered = np.sort(np.where(known, values, np.inf), axis=axis)
    middle = np.maximum(known.sum(axis=axis, keepdims=True) - 1, 0) // 2
    median = np.take_along_axis(ordered, middle, axis=axis).squeeze(axis)
    return np.where(np.isfinite(median), median, 0.0)
