"""Rolling shutter: most cameras read their rows one after the other, so a moving camera bends the image.

A pose belongs to the moment the image center is read; a row (or column) away from it is seen from a pose a little
earlier or later on the camera's path. Left out, this bends focal length and poses of handheld video. The readout time
is found from the residuals of the reconstruction itself, so nothing has to be known about the camera.
Image positions are (x, y) in pixels. Axis legend: f frames, o observations.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial.transform import Rotation

from fw_data.annotators.sfm.scene import SparseScene

MAX_READOUT = 1.0
"""Largest readout, as a fraction of the time between two frames."""
MIN_OBSERVATIONS = 10


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


def estimate_readout(scene: SparseScene, loss_px: float = 0.5, iterations: int = 5) -> tuple[float, float]:
    """The readout that explains the residuals best, given that every pose may shift to help: (across, down).

    Sensors are read along their short side, so one of the two is 0: across in portrait video, down otherwise.
    """
    axis = 0 if scene.width < scene.height else 1
    unit = (1.0, 0.0) if axis == 0 else (0.0, 1.0)
    still = replace(scene, readout=(0.0, 0.0))
    shutter = shift_px(scene, scene.obs_frame, scene.points[scene.obs_point], scene.obs_xy, unit)
    estimate = fit_field(
        still, shutter, start=scene.readout[axis], limit=MAX_READOUT, loss_px=loss_px, iterations=iterations
    )
    return (estimate, 0.0) if axis == 0 else (0.0, estimate)


def fit_field(
    scene: SparseScene,
    field: Float64[np.ndarray, "o 2"],
    *,
    start: float,
    limit: float,
    loss_px: float = 0.5,
    iterations: int = 5,
) -> float:
    """The factor of a displacement field that explains the residuals best, given that every pose may shift to help.

    Linear least squares with Cauchy weights: each frame's six pose parameters are projected out, so what is left of the
    residual is only explained by the field. 0 where poses explain all of it; else within [-limit, limit].
    """
    residual, depth = _residual_vectors(scene)
    pose_columns = _pose_jacobian(scene, scene.points[scene.obs_point])
    frames = [np.flatnonzero((scene.obs_frame == frame) & (depth > 0)) for frame in np.flatnonzero(scene.posed)]
    frames = [rows for rows in frames if len(rows) >= MIN_OBSERVATIONS]
    estimate = start
    for _ in range(iterations):
        left = residual - estimate * field
        weight = 1 / (1 + (left**2).sum(axis=1) / loss_px**2)
        normal = right = 0.0
        for rows in frames:
            root = np.sqrt(np.repeat(weight[rows], 2))
            basis, _ = np.linalg.qr(root[:, None] * pose_columns[rows].reshape(-1, 6))
            moved = root * field[rows].reshape(-1)
            moved = moved - basis @ (basis.T @ moved)
            normal += moved @ moved
            right += moved @ (root * residual[rows].reshape(-1))
        if normal < 1e-9 * max(len(residual), 1):
            return 0.0
        estimate = float(np.clip(right / normal, -limit, limit))
    return estimate


def _residual_vectors(scene: SparseScene) -> tuple[Float64[np.ndarray, "o 2"], Float64[np.ndarray, " o"]]:
    xy, depth = scene.project(scene.obs_frame, scene.points[scene.obs_point])
    return scene.obs_xy - observed_shift(scene) - xy, depth


def _pose_jacobian(scene: SparseScene, points: np.ndarray) -> Float64[np.ndarray, "o 2 6"]:
    """Movement in the image per small rotation and translation of the camera (world-to-camera, on the left)."""
    pose = scene.pose_w2c[scene.obs_frame]
    x, y, z = (np.einsum("oij,oj->oi", pose[:, :3, :3], points) + pose[:, :3, 3]).T
    z = np.where(np.abs(z) > 1e-9, z, 1e-9)
    u, v, zero = x / z, y / z, np.zeros_like(z)
    rows = [
        [-u * v, 1 + u * u, -v, 1 / z, zero, -u / z],
        [-1 - v * v, u * v, u, zero, 1 / z, -v / z],
    ]
    return scene.focal_px * np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def _flat(camera: np.ndarray) -> np.ndarray:
    depth = camera[:, 2:]
    return camera[:, :2] / np.where(np.abs(depth) > 1e-9, depth, 1e-9)
