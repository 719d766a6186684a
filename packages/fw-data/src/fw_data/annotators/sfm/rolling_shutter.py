"""Rolling shutter: most cameras read their rows one after the other, so a moving camera bends the image.

A pose belongs to the moment the image center is read; a row (or column) away from it is seen from a pose a little
earlier or later on the camera's path. Left out, this bends focal length and poses of handheld video. The readout time
is found from the residuals of the reconstruction itself, so nothing has to be known about the camera.
Image positions are (x, y) in pixels. Axis legend: f frames, o observations.
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial.transform import Rotation

from fw_data.annotators.sfm.scene import SparseScene

MAX_READOUT = 1.0
"""Largest readout, as a fraction of the time between two frames."""
DAMPING = 1e-6
"""Relative, for what the observations do not determine: place, orientation and size of the scene."""


def camera_twists(scene: SparseScene) -> Float64[np.ndarray, "f 6"]:
    """Motion of each camera per frame interval, in its own axes: rotation vector, then translation.

    Central differences over the posed frames; zero next to a frame without a pose.
    """
    c2w = np.linalg.inv(scene.pose_w2c)
    relative = scene.pose_w2c[:-1] @ c2w[1:]
    step = np.concatenate([Rotation.from_matrix(relative[:, :3, :3]).as_rotvec(), relative[:, :3, 3]], axis=1)
    known = (scene.posed[:-1] & scene.posed[1:]).astype(np.float64)
    total = np.zeros((len(c2w), 6))
    weight = np.zeros(len(c2w))
    total[:-1] += known[:, None] * step
    total[1:] += known[:, None] * step
    weight[:-1] += known
    weight[1:] += known
    return total / np.maximum(weight, 1)[:, None]


def shift_px(
    scene: SparseScene,
    frames: Int64[np.ndarray, " o"],
    points: Float64[np.ndarray, "o 3"],
    xy: Float64[np.ndarray, "o 2"],
    readout: tuple[float, float] | None = None,
) -> Float64[np.ndarray, "o 2"]:
    """Displacement of points seen at about `xy` by the rolling shutter, from their global-shutter positions."""
    readout = scene.readout if readout is None else readout
    if readout == (0.0, 0.0):
        return np.zeros((len(frames), 2))
    time = (xy / [scene.width, scene.height] - 0.5) @ np.array(readout)
    twist = camera_twists(scene)[frames] * time[:, None]
    pose = scene.pose_w2c[frames]
    camera = np.einsum("oij,oj->oi", pose[:, :3, :3], points) + pose[:, :3, 3]
    moved = Rotation.from_rotvec(-twist[:, :3]).apply(camera - twist[:, 3:])
    return scene.focal_px * (_flat(moved) - _flat(camera))


def observed_shift(scene: SparseScene) -> Float64[np.ndarray, "o 2"]:
    """`shift_px` of every observation of the scene."""
    return shift_px(scene, scene.obs_frame, scene.points[scene.obs_point], scene.obs_xy)


def residuals_px(scene: SparseScene) -> Float64[np.ndarray, " o"]:
    """Distance of each observation from where its point should be seen; infinity behind the camera."""
    residual, depth = _residual_vectors(scene)
    return np.where(depth > 0, np.linalg.norm(residual, axis=1), np.inf)


def estimate_readout(scene: SparseScene, loss_px: float = 0.5, iterations: int = 3) -> tuple[float, float]:
    """The readout that explains the residuals best, given that poses, points and focal length give way: (across, down).

    Sensors are read along their short side, so one of the two is 0: across in portrait video, down otherwise. A linear
    step of least squares with Cauchy weights; the points are eliminated first (Schur complement).
    """
    axis = 0 if scene.width < scene.height else 1
    unit = (1.0, 0.0) if axis == 0 else (0.0, 1.0)
    points = scene.points[scene.obs_point]
    shutter = shift_px(scene, scene.obs_frame, points, scene.obs_xy, unit)
    residual, depth = _residual_vectors(scene)
    by_pose, by_point, by_focal = _jacobians(scene, points)
    own = 6 * len(scene.posed)
    columns = (6 * scene.obs_frame[:, None] + np.arange(6), np.tile([own, own + 1], (len(residual), 1)))
    columns = np.concatenate(columns, axis=1)
    rows = np.concatenate([by_pose, by_focal[..., None], shutter[..., None]], axis=2)
    step = np.zeros(own + 2)
    left = residual
    for _ in range(iterations):
        weight = np.where(depth > 0, 1 / (1 + (left**2).sum(axis=1) / loss_px**2), 0.0)
        step, moved = _least_squares(rows, columns, by_point, scene.obs_point, residual, weight, len(scene.points))
        left = residual - moved
    estimate = float(np.clip(scene.readout[axis] + step[-1], -MAX_READOUT, MAX_READOUT))
    return (estimate, 0.0) if axis == 0 else (0.0, estimate)


def _least_squares(
    rows: Float64[np.ndarray, "o 2 c"],
    columns: Int64[np.ndarray, "o c"],
    by_point: Float64[np.ndarray, "o 2 3"],
    obs_point: Int64[np.ndarray, " o"],
    residual: Float64[np.ndarray, "o 2"],
    weight: Float64[np.ndarray, " o"],
    count: int,
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "o 2"]]:
    """The weighted least-squares step of the camera parameters, and the residuals that it and the points explain.

    `columns` names the parameters that the columns of `rows` belong to; `count` points move, too.
    """
    size = int(columns.max()) + 1
    weighted = weight[:, None, None] * rows
    normal = np.bincount(
        (columns[:, :, None] * size + columns[:, None, :]).ravel(),
        np.einsum("okc,okd->ocd", weighted, rows).ravel(),
        size * size,
    ).reshape(size, size)
    right = np.bincount(columns.ravel(), np.einsum("okc,ok->oc", weighted, residual).ravel(), size)
    axes = 3 * obs_point[:, None] + np.arange(3)
    cross = np.bincount(
        (axes[:, :, None] * size + columns[:, None, :]).ravel(),
        np.einsum("oki,okc->oic", by_point, weighted).ravel(),
        3 * count * size,
    ).reshape(count, 3, size)
    own = np.bincount(
        (9 * obs_point[:, None] + np.arange(9)).ravel(),
        np.einsum("oki,okj->oij", weight[:, None, None] * by_point, by_point).ravel(),
        9 * count,
    ).reshape(count, 3, 3)
    own += DAMPING * np.maximum(np.trace(own, axis1=1, axis2=2), 1e-12)[:, None, None] * np.eye(3)
    point_right = np.bincount(
        axes.ravel(), np.einsum("oki,ok->oi", by_point, weight[:, None] * residual).ravel(), 3 * count
    ).reshape(count, 3, 1)
    solved = np.linalg.solve(own, np.concatenate([cross, point_right], axis=2))
    reduced = normal - np.tensordot(cross, solved[..., :-1], axes=((0, 1), (0, 1)))
    right = right - np.tensordot(cross, solved[..., -1], axes=((0, 1), (0, 1)))
    scale = np.sqrt(np.maximum(np.diag(normal), 1e-12))
    reduced = reduced / scale / scale[:, None] + DAMPING * np.eye(size)
    step = np.linalg.solve(reduced, right / scale) / scale
    moved_points = solved[..., -1] - solved[..., :-1] @ step
    moved = np.einsum("okc,oc->ok", rows, step[columns]) + np.einsum("oki,oi->ok", by_point, moved_points[obs_point])
    return step, moved


def _residual_vectors(scene: SparseScene) -> tuple[Float64[np.ndarray, "o 2"], Float64[np.ndarray, " o"]]:
    xy, depth = scene.project(scene.obs_frame, scene.points[scene.obs_point])
    return scene.obs_xy - observed_shift(scene) - xy, depth


def _jacobians(
    scene: SparseScene, points: Float64[np.ndarray, "o 3"]
) -> tuple[Float64[np.ndarray, "o 2 6"], Float64[np.ndarray, "o 2 3"], Float64[np.ndarray, "o 2"]]:
    """Movement in the image per small rotation and translation of the camera (world-to-camera, on the left), per
    movement of the point in the world, and per logarithm of the focal length."""
    pose = scene.pose_w2c[scene.obs_frame]
    x, y, z = (np.einsum("oij,oj->oi", pose[:, :3, :3], points) + pose[:, :3, 3]).T
    z = np.where(np.abs(z) > 1e-9, z, 1e-9)
    u, v, zero = x / z, y / z, np.zeros_like(z)
    turns = np.stack([np.stack([-u * v, 1 + u * u, -v], axis=1), np.stack([-1 - v * v, u * v, u], axis=1)], axis=1)
    shifts = np.stack([np.stack([1 / z, zero, -u / z], axis=1), np.stack([zero, 1 / z, -v / z], axis=1)], axis=1)
    by_pose = scene.focal_px * np.concatenate([turns, shifts], axis=2)
    return by_pose, scene.focal_px * shifts @ pose[:, :3, :3], scene.focal_px * np.stack([u, v], axis=1)


def _flat(camera: np.ndarray) -> np.ndarray:
    depth = camera[:, 2:]
    return camera[:, :2] / np.where(np.abs(depth) > 1e-9, depth, 1e-9)
