"""Poses of the frames between the key frames, from scene points carried over by optical flow.

Axis legend: f frames, h height, w width, n points.
"""

from dataclasses import replace

import numpy as np
import poselib
from jaxtyping import UInt8

from fw_data.annotators.sfm.matching.keyframes import track_points
from fw_data.annotators.sfm.scene import SparseScene

MIN_INLIERS = 15
MAX_ERROR_PX = 4.0


def pose_remaining_frames(scene: SparseScene, gray: UInt8[np.ndarray, "f h w"], seed: int) -> SparseScene:
    """Pose every frame that a posed neighbor can be followed to; observations of the new frames are added.

    Works outwards from the posed frames in both directions, one frame at a time, until nothing changes.
    """
    pose = scene.pose_w2c.copy()
    posed = scene.posed.copy()
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for frame in np.flatnonzero(posed):
        rows = np.flatnonzero(scene.obs_frame == frame)
        seen[int(frame)] = (scene.obs_point[rows], scene.obs_xy[rows])
    camera = {
        "model": "SIMPLE_RADIAL",
        "width": scene.width,
        "height": scene.height,
        "params": [scene.focal_px, *scene.center_px, scene.radial],
    }
    failed: set[tuple[int, int]] = set()
    while True:
        step = _next_step(posed, failed)
        if step is None:
            break
        source, target = step
        points, xy = seen[source]
        moved, good = track_points(gray[source], gray[target], xy.astype(np.float32))
        points, moved = points[good], moved[good].astype(np.float64)
        result = _resect(moved, scene.points[points], camera, seed)
        if result is None:
            failed.add(step)
            continue
        pose[target], inliers = result
        posed[target] = True
        seen[target] = (points[inliers], moved[inliers])
    new = [frame for frame in seen if not scene.posed[frame]]
    return replace(
        scene,
        pose_w2c=pose,
        posed=posed,
        obs_frame=np.concatenate([scene.obs_frame, *(np.full(len(seen[f][0]), f) for f in new)]),
        obs_point=np.concatenate([scene.obs_point, *(seen[f][0] for f in new)]),
        obs_xy=np.concatenate([scene.obs_xy, *(seen[f][1] for f in new)]),
    )


def _resect(xy: np.ndarray, points: np.ndarray, camera: dict, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """World-to-camera pose from image positions of known points, and which of them fit; None when too few do."""
    if len(points) < MIN_INLIERS:
        return None
    result, info = poselib.estimate_absolute_pose(
        xy, points, camera, {"max_reproj_error": MAX_ERROR_PX, "seed": seed, "max_iterations": 2000}
    )
    inliers = np.asarray(info["inliers"], bool)
    if inliers.sum() < max(MIN_INLIERS, 0.3 * len(points)):
        return None
    pose = np.eye(4)
    pose[:3] = result.Rt
    return pose, inliers


def _next_step(posed: np.ndarray, failed: set[tuple[int, int]]) -> tuple[int, int] | None:
    """A posed frame and an unposed neighbor of it that has not been tried from there."""
    for target in np.flatnonzero(~posed):
        for source in (int(target) - 1, int(target) + 1):
            if 0 <= source < len(posed) and posed[source] and (source, int(target)) not in failed:
                return source, int(target)
    return None
