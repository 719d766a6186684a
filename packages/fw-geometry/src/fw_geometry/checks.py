"""Checks of arguments: sizes, pose stacks and intrinsics, each with a message that gives the fix.

Axis legend: OpenCV camera axes, camera-to-world or world-to-camera alike; K is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].
"""

import numpy as np

from fw_geometry.rigid import orthonormality_error

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest |R^T R - I| that still counts as a rotation (stored datasets are off by 1e-4)."""


def check_size(where: str, width: int, height: int) -> None:
    """ValueError if an image size is not at least 1 x 1 pixels."""
    if width < 1 or height < 1:
        raise ValueError(f"{where}: size is {width} x {height} pixels; both must be at least 1")


def checked_poses(where: str, value: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    """A float64 copy of rigid 4x4 poses; a string in `shape` means any length. ValueError names the bad pose."""
    poses = _checked_array(where, value, shape)
    stack = poses.reshape(-1, 4, 4)
    last_row = np.abs(stack[:, 3] - (0.0, 0.0, 0.0, 1.0)).max(axis=-1)
    if last_row.max(initial=0.0) > ORTHONORMAL_TOLERANCE:
        frame = int(last_row.argmax())
        raise ValueError(
            f"{where}: last row of pose {frame} is {stack[frame, 3].tolist()}, expected [0, 0, 0, 1]; "
            "is the matrix transposed?"
        )
    error = orthonormality_error(stack[:, :3, :3])
    if error.max(initial=0.0) > ORTHONORMAL_TOLERANCE:
        frame = int(error.argmax())
        cause = "it mirrors space (det < 0)" if np.isinf(error[frame]) else f"max |R^T R - I| = {error[frame]:.2g}"
        raise ValueError(
            f"{where}: R of pose {frame} is not a rotation: {cause}, allowed {ORTHONORMAL_TOLERANCE}; "
            "remove scale and shear with fw_geometry.orthonormalize, or flip the axis that is mirrored"
        )
    return poses


def checked_intrinsics(where: str, value: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    """A float64 copy of pinhole intrinsics without skew. ValueError names the bad frame."""
    intrinsics = _checked_array(where, value, shape)
    stack = intrinsics.reshape(-1, 3, 3)
    focal = np.stack([stack[:, 0, 0], stack[:, 1, 1]], axis=-1)
    if focal.min(initial=np.inf) <= 0:
        frame = int(focal.min(axis=-1).argmin())
        raise ValueError(
            f"{where}: focal lengths of frame {frame} are {focal[frame].tolist()} pixels; both must be above zero"
        )
    rest = stack - np.where([[1, 0, 1], [0, 1, 1], [0, 0, 0]], stack, 0.0) - np.diag([0.0, 0.0, 1.0])
    off = np.abs(rest).max(axis=(-2, -1)) / focal.max(axis=-1)
    if off.max(initial=0.0) > 1e-6:
        frame = int(off.argmax())
        raise ValueError(
            f"{where}: frame {frame} is {stack[frame].tolist()}, expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] "
            "in pixels; drop the skew or transpose the matrix"
        )
    return intrinsics


def _checked_array(where: str, value: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    """A float64 copy of the wanted shape (a string means any length), all finite."""
    array = np.array(value, dtype=np.float64)
    wanted = "(" + ", ".join(str(size) for size in shape) + ")"
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{where}: shape is {array.shape}, expected {wanted}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        raise ValueError(f"{where}: entry {at} is {array[at]}; {len(bad)} entries are not finite, drop or repair them")
    return array
