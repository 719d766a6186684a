"""Rigid motions and the 9-D camera encoding in torch: batched, differentiable, any float dtype.

Axis legend: OpenCV camera axes (x right, y down, z forward); `pose_c2w` maps camera points to the world, `pose_w2c` is
its inverse. Quaternions are (x, y, z, w). Twists are (translation part, rotation part), angles in radians.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def encode_pose(
    pose_w2c: Float[Tensor, "*b 4 4"], K: Float[Tensor, "*b 3 3"], height: int, width: int
) -> Float[Tensor, "*b 9"]:
    """Camera encoding absT_quaR_FoV, as the geometry branch predicts it (FantasyWorld 1.7, after VGGT).

    Args:
        pose_w2c: world-to-camera, OpenCV axes.
        K: intrinsics in pixels of a height x width image; the principal point is not encoded.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        (..., 9): translation of `pose_w2c` (3), quaternion x, y, z, w with w >= 0 (4), full vertical then horizontal
        field of view in radians (2).
    """
    fov = torch.stack(
        [2 * torch.atan(height / 2 / K[..., 1, 1]), 2 * torch.atan(width / 2 / K[..., 0, 0])],
        dim=-1,
    )
    return torch.cat([pose_w2c[..., :3, 3], matrix_to_quaternion(pose_w2c[..., :3, :3]), fov], dim=-1)


def decode_pose(
    encoding: Float[Tensor, "*b 9"], height: int, width: int
) -> tuple[Float[Tensor, "*b 4 4"], Float[Tensor, "*b 3 3"]]:
    """Inverse of `encode_pose`: (pose_w2c, K) with the principal point at (width / 2, height / 2).

    The quaternion may have any non-zero length. Fields of view of 0 give an infinite focal length.
    """
    pose_w2c = _rigid(quaternion_to_matrix(encoding[..., 3:7]), encoding[..., :3])
    fy = height / 2 / torch.tan(encoding[..., 7] / 2)
    fx = width / 2 / torch.tan(encoding[..., 8] / 2)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = [
        torch.stack([fx, zero, one * (width / 2)], dim=-1),
        torch.stack([zero, fy, one * (height / 2)], dim=-1),
        torch.stack([zero, zero, one], dim=-1),
    ]
    return pose_w2c, torch.stack(rows, dim=-2)


def quaternion_to_matrix(q_xyzw: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotations of quaternions (x, y, z, w) of any non-zero length. Shapes (..., 4) -> (..., 3, 3)."""
    x, y, z, w = q_xyzw.unbind(-1)
    s = 2.0 / q_xyzw.square().sum(-1)
    rows = [
        torch.stack([1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)], dim=-1),
        torch.stack([s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)], dim=-1),
        torch.stack([s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def matrix_to_quaternion(R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternions (x, y, z, w), w >= 0, of rotations. Shapes (..., 3, 3) -> (..., 4).

    Well conditioned and differentiable at every angle: the four rows below are 4 q_k q for k = x, y, z, w, and the one
    whose own entry is largest is at least twice the unit length.
    """
    xx, yy, zz = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    xy, xz, yz = R[..., 1, 0] + R[..., 0, 1], R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1]
    wx, wy, wz = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    rows = torch.stack(
        [
            torch.stack([1 + xx - yy - zz, xy, xz, wx], dim=-1),
            torch.stack([xy, 1 - xx + yy - zz, yz, wy], dim=-1),
            torch.stack([xz, yz, 1 - xx - yy + zz, wz], dim=-1),
            torch.stack([wx, wy, wz, 1 + xx + yy + zz], dim=-1),
        ],
        dim=-2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    q = torch.take_along_dim(rows, best[..., None, None], dim=-2)[..., 0, :]
    q = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    return torch.where(q[..., 3:] < 0, -q, q)


def se3_inverse(T: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Inverse of rigid motions, [R|t] -> [R^T | -R^T t]. Shapes (..., 4, 4); exact only if R is orthonormal."""
    rotation_t = T[..., :3, :3].transpose(-1, -2)
    return _rigid(rotation_t, -(rotation_t @ T[..., :3, 3:])[..., 0])


def se3_exp(twist: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 4 4"]:
    """Rigid motions of twists (v, omega): R = exp(omega), t = V(omega) v. Shapes (..., 6) -> (..., 4, 4).

    `omega` is axis times angle in radians; the result and its gradient are finite at zero.
    """
    v, omega = twist[..., :3], twist[..., 3:]
    squared = omega.square().sum(-1)[..., None, None]
    small = squared < _small_squared(twist)
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    half_sine = torch.sin(angle / 2)
    a = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    b = torch.where(small, 0.5 - squared / 24, 2 * half_sine.square() / safe)
    c = torch.where(small, 1 / 6 - squared / 120, (angle - torch.sin(angle)) / (safe * angle))
    skew = _skew(omega)
    skew_squared = skew @ skew
    eye = torch.eye(3, dtype=twist.dtype, device=twist.device)
    rotation = eye + a * skew + b * skew_squared
    return _rigid(rotation, ((eye + b * skew + c * skew_squared) @ v[..., None])[..., 0])


def se3_log(T: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 6"]:
    """Twists (v, omega) of rigid motions, the inverse of `se3_exp` for angles up to pi. (..., 4, 4) -> (..., 6)."""
    q = matrix_to_quaternion(T[..., :3, :3])
    vector, w = q[..., :3], q[..., 3:]
    squared = vector.square().sum(-1, keepdim=True)
    small = squared < _small_squared(T)
    length = torch.where(small, torch.ones_like(squared), squared).sqrt()
    omega = vector * torch.where(small, 2 / w.clamp_min(0.5) * (1 - squared / 3), 2 * torch.atan2(length, w) / length)

    angle_squared = omega.square().sum(-1)[..., None, None]
    small = angle_squared < _small_squared(T)
    safe = torch.where(small, torch.ones_like(angle_squared), angle_squared)
    half = safe.sqrt() / 2
    d = torch.where(small, 1 / 12 + angle_squared / 720, (1 - half / torch.tan(half)) / safe)
    skew = _skew(omega)
    eye = torch.eye(3, dtype=T.dtype, device=T.device)
    v = ((eye - skew / 2 + d * (skew @ skew)) @ T[..., :3, 3:])[..., 0]
    return torch.cat([v, omega], dim=-1)


def rotation_angle(R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle in [0, pi] rad of rotations (..., 3, 3), as atan2 of the skew part and the trace.

    arccos of the trace loses half of the digits near zero, and its gradient is infinite there.
    """
    skew = torch.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], dim=-1)
    trace = R.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(torch.linalg.vector_norm(skew, dim=-1), trace - 1)


def orthonormalize(R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """Closest rotation in the Frobenius norm, by SVD with the determinant fixed to +1. Shapes (..., 3, 3)."""
    u, _, vt = torch.linalg.svd(R)
    sign = torch.sign(torch.linalg.det(u @ vt))
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return (u * flip[..., None, :]) @ vt


def interpolate_poses(
    pose_c2w: Float[Tensor, "f 4 4"], times_in: Float[Tensor, "f"], times_out: Float[Tensor, "n"]
) -> Float[Tensor, "n 4 4"]:
    """Poses at other times: slerp for the rotation, a straight line for the camera center; ends are held.

    Args:
        pose_c2w: camera-to-world poses at `times_in`.
        times_in: strictly increasing.
        times_out: any order; values outside the range give the first or last pose.

    Raises:
        ValueError: `times_in` does not increase strictly.
    """
    if len(times_in) == 1:
        return pose_c2w.expand(len(times_out), 4, 4).clone()
    if bool((times_in.diff() <= 0).any()):
        raise ValueError("interpolate_poses: times_in must increase strictly; sort the poses by time and drop doubles")
    right = torch.searchsorted(times_in.contiguous(), times_out.contiguous(), right=True).clamp(1, len(times_in) - 1)
    left = right - 1
    fraction = ((times_out - times_in[left]) / (times_in[right] - times_in[left])).clamp(0, 1)[:, None]
    step = se3_inverse(pose_c2w)[left] @ pose_c2w[right]
    omega = se3_log(step)[..., 3:]
    turn = se3_exp(torch.cat([torch.zeros_like(omega), omega * fraction], dim=-1))[..., :3, :3]
    center = pose_c2w[:, :3, 3]
    return _rigid(pose_c2w[left, :3, :3] @ turn, center[left] * (1 - fraction) + center[right] * fraction)


def _rigid(R: Tensor, t: Tensor) -> Tensor:
    top = torch.cat([R, t[..., None]], dim=-1)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=R.dtype, device=R.device).expand(*R.shape[:-2], 1, 4)
    return torch.cat([top, last], dim=-2)


def _skew(omega: Tensor) -> Tensor:
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack([zero, -z, y], -1), torch.stack([z, zero, -x], -1), torch.stack([-y, x, zero], -1)]
    return torch.stack(rows, dim=-2)


def _small_squared(like: Tensor) -> float:
    """Squared angle below which two Taylor terms beat the closed forms in this dtype."""
    return float(torch.finfo(like.dtype).eps ** 0.5)
