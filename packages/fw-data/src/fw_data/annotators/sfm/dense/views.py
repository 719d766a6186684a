"""Which frames to compare each frame with, and between which depths to search.

Axis legend: f frames, p points.
"""

import numpy as np
from jaxtyping import Bool, Float64

from fw_data.annotators.sfm.scene import SparseScene

BEST_ANGLE_DEG = 6.0


def visibility(scene: SparseScene) -> Bool[np.ndarray, "f p"]:
    """Which frame observes which point."""
    seen = np.zeros((len(scene.posed), len(scene.points)), bool)
    seen[scene.obs_frame, scene.obs_point] = True
    return seen


def choose_sources(scene: SparseScene, count: int) -> list[list[int]]:
    """For each frame, up to `count` other frames that together see as many of its points as possible at useful angles.

    A shared point is worth most when the two cameras see it about six degrees apart; less when the angle is smaller
    (depth is uncertain) or larger (the views differ too much). Frames are taken one by one; each point that is already
    seen well counts for less, so the rim of the image and places hidden on one side get frames of their own.
    """
    seen = visibility(scene)
    centers = scene.centers
    return [_greedy(_point_values(scene, seen, centers, frame), count) for frame in range(len(scene.posed))]


def depth_limits(scene: SparseScene, near_margin: float = 0.75, far_margin: float = 1.5) -> Float64[np.ndarray, "f 2"]:
    """Nearest and furthest depth worth searching in each frame, from the points in view (robust limits and margins)."""
    limits = np.zeros((len(scene.posed), 2))
    points = np.arange(len(scene.points))
    for frame in range(len(scene.posed)):
        xy, depth = scene.project(np.full(len(points), frame), scene.points)
        margin = 0.05 * scene.width
        inside = (depth > 0) & (xy > -margin).all(axis=1) & (xy[:, 0] < scene.width + margin)
        inside &= xy[:, 1] < scene.height + margin
        inside[scene.obs_point[scene.obs_frame == frame]] = True
        own = depth[inside & (depth > 0)]
        if len(own) < 10:
            own = depth[depth > 0]
        low, high = np.percentile(own, [1, 99])
        limits[frame] = low * near_margin, high * far_margin
    return limits


def _point_values(scene: SparseScene, seen: np.ndarray, centers: np.ndarray, frame: int) -> Float64[np.ndarray, "f p"]:
    """Value of each other frame for each point that this frame may see, in [0, 1]."""
    xy, depth = scene.project(np.full(len(scene.points), frame), scene.points)
    inside = (depth > 0) & (xy > 0).all(axis=1) & (xy < [scene.width, scene.height]).all(axis=1)
    own = np.flatnonzero(seen[frame] | (inside & seen.any(axis=0)))
    rays = scene.points[own][None] - centers[:, None]
    rays /= np.maximum(np.linalg.norm(rays, axis=2, keepdims=True), 1e-12)
    angle = np.degrees(np.arccos(np.clip(np.einsum("fpi,pi->fp", rays, rays[frame]), -1, 1)))
    width = np.where(angle < BEST_ANGLE_DEG, 3.0, 8.0)
    value = np.exp(-0.5 * ((angle - BEST_ANGLE_DEG) / width) ** 2) * seen[:, own]
    value[frame] = 0
    value[~scene.posed] = 0
    return value


def _greedy(value: Float64[np.ndarray, "f p"], count: int) -> list[int]:
    taken: list[int] = []
    covered = np.zeros(value.shape[1])
    for _ in range(min(count, len(value))):
        gain = (value / (1 + covered) ** 2).sum(axis=1)
        gain[taken] = 0
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        taken.append(best)
        covered += value[best]
    return taken
