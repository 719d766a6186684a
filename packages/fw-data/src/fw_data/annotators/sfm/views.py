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
    """For each frame, up to `count` other frames that share most points under a useful angle.

    A shared point counts fully when the two cameras see it about six degrees apart, less when the angle is smaller
    (depth is uncertain) or larger (the views differ too much). Half of the frames are taken from before and half from
    after where there are enough, so that what is hidden on one side is seen from the other.
    """
    seen = visibility(scene)
    centres = scene.centres
    chosen = []
    for frame in range(len(scene.posed)):
        score = _view_scores(scene, seen, centres, frame)
        before = [int(j) for j in np.argsort(-score, kind="stable") if j < frame and score[j] > 0]
        after = [int(j) for j in np.argsort(-score, kind="stable") if j > frame and score[j] > 0]
        half = count // 2
        take_before = min(len(before), max(half, count - len(after)))
        take_after = min(len(after), count - take_before)
        chosen.append(_spread(before, score, take_before) + _spread(after, score, take_after))
    return chosen


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


def _view_scores(scene: SparseScene, seen: np.ndarray, centres: np.ndarray, frame: int) -> Float64[np.ndarray, " f"]:
    own = np.flatnonzero(seen[frame])
    score = np.zeros(len(seen))
    if not len(own):
        return score
    rays = scene.points[own][None] - centres[:, None]
    rays /= np.maximum(np.linalg.norm(rays, axis=2, keepdims=True), 1e-12)
    angle = np.degrees(np.arccos(np.clip(np.einsum("fpi,pi->fp", rays, rays[frame]), -1, 1)))
    width = np.where(angle < BEST_ANGLE_DEG, 3.0, 8.0)
    value = np.exp(-0.5 * ((angle - BEST_ANGLE_DEG) / width) ** 2)
    score = (value * seen[:, own]).sum(axis=1)
    score[frame] = 0
    score[~scene.posed] = 0
    return score


def _spread(ranked: list[int], score: np.ndarray, count: int) -> list[int]:
    """The best frames, skipping direct neighbours of one already taken while others score nearly as well."""
    taken: list[int] = []
    for allow_neighbours in (False, True):
        for j in ranked:
            if len(taken) == count:
                return taken
            near = any(abs(j - other) <= 1 for other in taken)
            if j in taken or (near and not allow_neighbours):
                continue
            if not allow_neighbours and taken and score[j] < 0.5 * score[taken[0]]:
                continue
            taken.append(j)
    return taken
