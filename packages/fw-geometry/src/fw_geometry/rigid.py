"""Rigid motions in numpy float64: the twin of `pose.py` for files, metrics and trajectories, where torch is not wanted.

Axis legend: OpenCV camera axes (x right, y down, z forward). `pose` is a 4x4 matrix that maps points of one frame to
another; `pose_c2w` maps camera points to the world. Quaternions are (x, y, z, w). Every function takes leading dims.
"""

import numpy as np
from jaxtyping import Float

_SMALL_RAD = 1e-6


def invert_poses(pose: Float[np.ndarray, "*n 4 4"]) -> Float[np.ndarray, "*n 4 4"]:
    """Inverse of rigid motions, [R|t] -> [R^T | -R^T t]. Shapes (..., 4, 4); exact only if R is orthonormal."""
    rotation_t = np.swapaxes(pose[..., :3, :3], -1, -2)
    return compose_poses(rotation_t, -(rotation_t @ pose[..., :3, 3:])[..., 0])


def compose_poses(
    rotation: Float[np.ndarray, "*n 3 3"], translation: Float[np.ndarray, "*n 3"]
) -> Float[np.ndarray, "*n 4 4"]:
    """The 4x4 matrix of a rotation (..., 3, 3) and a translation (..., 3)."""
    pose = np.zeros((*rotation.shape[:-2], 4, 4))
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = translation
    pose[..., 3, 3] = 1.0
    return pose


def orthonormality_error(rotation: Float[np.ndarray, "*n 3 3"]) -> Float[np.ndarray, "*n"]:
    """Largest entry of |R^T R - I|, and infinity for a mirror (det < 0). Zero for a true rotation. Shape (...)."""
    gram = np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)
    error = np.abs(gram).max(axis=(-2, -1))
    return np.where(np.linalg.det(rotation) > 0, error, np.inf)


def nearest_rotations(matrix: Float[np.ndarray, "*n 3 3"]) -> Float[np.ndarray, "*n 3 3"]:
    """Closest rotation in the Frobenius norm, by SVD with the determinant fixed to +1. Shapes (..., 3, 3)."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(u @ vt))
    u = u.copy()
    u[..., :, 2] *= sign[..., None]
    return u @ vt


def quaternions_from_rotations(rotation: Float[np.ndarray, "*n 3 3"]) -> Float[np.ndarray, "*n 4"]:
    """Unit quaternions (x, y, z, w) with w >= 0 of rotations (..., 3, 3); well conditioned at every angle.

    The four rows below are 4 q_k q for k = x, y, z, w; the longest one, normalized, is q.
    """
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    rows = np.stack(
        [
            np.stack([1 + xx - yy - zz, xy, xz, wx], -1),
            np.stack([xy, 1 - xx + yy - zz, yz, wy], -1),
            np.stack([xz, yz, 1 - xx - yy + zz, wz], -1),
            np.stack([wx, wy, wz, 1 + xx + yy + zz], -1),
        ],
        -2,
    )
    best = np.argmax(np.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(rows, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., 3:] < 0, -q, q)


def rotations_from_quaternions(q_xyzw: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 3 3"]:
    """Rotations (..., 3, 3) of quaternions (x, y, z, w) of any non-zero length."""
    x, y, z, w = np.moveaxis(q_xyzw, -1, 0)
    s = 2.0 / (q_xyzw**2).sum(-1)
    return np.stack(
        [
            np.stack([1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)], -1),
            np.stack([s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)], -1),
            np.stack([s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)], -1),
        ],
        -2,
    )


def rotations_from_vectors(vector_rad: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3 3"]:
    """Rotations (..., 3, 3) of rotation vectors (axis times angle in radians), by way of the quaternion."""
    half = np.linalg.norm(vector_rad, axis=-1, keepdims=True) / 2
    # sin(a)/(2a) with a = |v|/2; np.sinc is sin(pi x)/(pi x)
    return rotations_from_quaternions(np.concatenate([vector_rad * np.sinc(half / np.pi) / 2, np.cos(half)], -1))


def rotation_angles(rotation: Float[np.ndarray, "*n 3 3"]) -> Float[np.ndarray, "*n"]:
    """Angle in [0, pi] rad of rotations (..., 3, 3), as atan2 of the skew part and the trace.

    arccos((tr - 1) / 2) loses half of the digits near zero and reports false angles of a degree for rotations that are
    only orthonormal to 1e-4; this form does not.
    """
    m = rotation
    skew = np.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1)
    return np.asarray(np.arctan2(np.linalg.norm(skew, axis=-1), np.trace(m, axis1=-2, axis2=-1) - 1.0))


def slerp_quaternions(
    q_from: Float[np.ndarray, "*n 4"], q_to: Float[np.ndarray, "*n 4"], fraction: Float[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n 4"]:
    """Spherical interpolation of unit quaternions along the shorter arc. `fraction` 0 gives q_from, 1 gives q_to."""
    dot = (q_from * q_to).sum(-1, keepdims=True)
    q_to = np.where(dot < 0, -q_to, q_to)
    angle = 2 * np.arctan2(np.linalg.norm(q_to - q_from, axis=-1), np.linalg.norm(q_to + q_from, axis=-1))[..., None]
    f = fraction[..., None]
    sine = np.where(angle < _SMALL_RAD, 1.0, np.sin(angle))
    weight_from = np.where(angle < _SMALL_RAD, 1 - f, np.sin((1 - f) * angle) / sine)
    weight_to = np.where(angle < _SMALL_RAD, f, np.sin(f * angle) / sine)
    q = weight_from * q_from + weight_to * q_to
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def interpolate_rigid(
    pose: Float[np.ndarray, "f 4 4"], times_in: Float[np.ndarray, "f"], times_out: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n 4 4"]:
    """Poses at other times: slerp for the rotation, a straight line for the translation; ends are held.

    Args:
        pose: poses at `times_in`.
        times_in: strictly increasing.
        times_out: any order; values outside the range give the first or last pose.

    Raises:
        ValueError: `times_in` does not increase strictly.
    """
    if len(times_in) > 1 and np.diff(times_in).min() <= 0:
        raise ValueError("interpolate_rigid: times_in must increase strictly; sort the poses by time and drop doubles")
    if len(times_in) == 1:
        return np.repeat(pose, len(times_out), axis=0)
    right = np.clip(np.searchsorted(times_in, times_out, side="right"), 1, len(times_in) - 1)
    left = right - 1
    fraction = np.clip((times_out - times_in[left]) / (times_in[right] - times_in[left]), 0.0, 1.0)
    quaternion = quaternions_from_rotations(pose[:, :3, :3])
    rotation = rotations_from_quaternions(slerp_quaternions(quaternion[left], quaternion[right], fraction))
    t = pose[:, :3, 3]
    return compose_poses(rotation, t[left] * (1 - fraction[:, None]) + t[right] * fraction[:, None])
