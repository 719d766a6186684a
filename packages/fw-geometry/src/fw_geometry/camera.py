"""A camera and a camera path: the one home of the project's camera conventions.

Axis legend: OpenCV axes (x right, y down, z forward); poses are camera-to-world (`pose_c2w`). Pixel (column i, row j)
has its center at (i + 0.5, j + 0.5), and K is in pixels of the stored frames in that convention, so that a centered
principal point is (width / 2, height / 2) and resizing an image just multiplies K.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from fw_geometry.checks import check_size, checked_intrinsics, checked_poses
from fw_geometry.rigid import interpolate_rigid, invert_poses

Units = Literal["scene", "metric"]
"""Length unit of a path: "metric" is meters, "scene" is known only up to one scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """One pinhole camera.

    Raises:
        ValueError: wrong shapes, numbers that are not finite, K that is not a pinhole, R that is not a rotation.
    """

    K: np.ndarray
    """(3, 3) float64, intrinsics in pixels, no skew."""
    pose_c2w: np.ndarray
    """(4, 4) float64, camera-to-world."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""

    def __post_init__(self) -> None:
        check_size("Camera", self.width, self.height)
        object.__setattr__(self, "K", checked_intrinsics("Camera.K", self.K, (3, 3)))
        object.__setattr__(self, "pose_c2w", checked_poses("Camera.pose_c2w", self.pose_c2w, (4, 4)))

    @property
    def pose_w2c(self) -> np.ndarray:
        """(4, 4) float64, world-to-camera."""
        return invert_poses(self.pose_c2w)

    @property
    def center_world(self) -> np.ndarray:
        """(3,) float64, the camera center in world coordinates."""
        return self.pose_c2w[:3, 3].copy()

    @property
    def fov_rad(self) -> tuple[float, float]:
        """Full field of view in radians, (vertical, horizontal)."""
        vertical, horizontal = fov_from_intrinsics(self.K, self.width, self.height)
        return float(vertical), float(horizontal)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """A camera path: one pose and one K per frame, all of one image size.

    Methods return new paths; the arrays are copied at construction.

    Raises:
        ValueError: wrong shapes, numbers that are not finite, K that is not a pinhole, R that is not a rotation to
            1e-3, an unknown unit. The message names the frame and the fix.
    """

    pose_c2w: np.ndarray
    """(f, 4, 4) float64, camera-to-world."""
    K: np.ndarray
    """(f, 3, 3) float64, intrinsics in pixels, no skew."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""
    units: Units = "scene"
    """"metric" for meters, "scene" for lengths up to one scale."""

    def __post_init__(self) -> None:
        check_size("Trajectory", self.width, self.height)
        poses = checked_poses("Trajectory.pose_c2w", self.pose_c2w, ("f", 4, 4))
        intrinsics = checked_intrinsics("Trajectory.K", self.K, ("f", 3, 3))
        if len(poses) == 0:
            raise ValueError("Trajectory: no frames; give at least one pose")
        if len(poses) != len(intrinsics):
            raise ValueError(
                f"Trajectory: {len(poses)} poses but {len(intrinsics)} intrinsics; give one K per frame "
                "(np.repeat(K[None], frames, axis=0) for a constant one)"
            )
        if self.units not in get_args(Units):
            raise ValueError(f"Trajectory: units is {self.units!r}; use one of {', '.join(get_args(Units))}")
        object.__setattr__(self, "pose_c2w", poses)
        object.__setattr__(self, "K", intrinsics)

    def __len__(self) -> int:
        return len(self.pose_c2w)

    def __getitem__(self, index: int) -> Camera:
        return Camera(K=self.K[index], pose_c2w=self.pose_c2w[index], width=self.width, height=self.height)

    def __iter__(self) -> Iterator[Camera]:
        return (self[index] for index in range(len(self)))

    @property
    def pose_w2c(self) -> np.ndarray:
        """(f, 4, 4) float64, world-to-camera."""
        return invert_poses(self.pose_c2w)

    @property
    def centers_world(self) -> np.ndarray:
        """(f, 3) float64, camera centers in world coordinates."""
        return self.pose_c2w[:, :3, 3].copy()

    @property
    def fov_rad(self) -> np.ndarray:
        """(f, 2) float64, full field of view in radians: vertical, horizontal."""
        return np.stack(fov_from_intrinsics(self.K, self.width, self.height), axis=-1)

    def path_length(self) -> float:
        """Length of the polyline through the camera centers, in the path's unit."""
        return float(np.linalg.norm(np.diff(self.pose_c2w[:, :3, 3], axis=0), axis=-1).sum())

    def slice(self, start: int | None = None, stop: int | None = None, step: int | None = None) -> "Trajectory":
        """Frames start:stop:step, with Python's slice rules. ValueError if none are left."""
        part = slice(start, stop, step)
        if len(self.pose_c2w[part]) == 0:
            raise ValueError(f"Trajectory.slice({start}, {stop}, {step}) of {len(self)} frames is empty; widen it")
        return replace(self, pose_c2w=self.pose_c2w[part], K=self.K[part])

    def relative_to_first(self) -> "Trajectory":
        """The same path seen from its first camera: the first pose becomes exactly the identity."""
        poses = invert_poses(self.pose_c2w[0]) @ self.pose_c2w
        poses[0] = np.eye(4)
        poses[:, 3] = (0.0, 0.0, 0.0, 1.0)
        return replace(self, pose_c2w=poses)

    def scaled(self, scale: float | int) -> "Trajectory":
        """Translations times `scale` (> 0); rotations and K stay. ValueError for a scale that is not positive."""
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"Trajectory.scaled: scale is {scale}; it must be a finite number above zero")
        poses = self.pose_c2w.copy()
        poses[:, :3, 3] *= scale
        return replace(self, pose_c2w=poses)

    def resized(self, width: int, height: int) -> "Trajectory":
        """K for frames resized to width x height (the two axes scale on their own)."""
        check_size("Trajectory.resized", width, height)
        scale = np.array([width / self.width, height / self.height, 1.0])
        return replace(self, K=self.K * scale[:, None], width=width, height=height)

    def cropped(self, left: float | int, top: float | int, width: int, height: int) -> "Trajectory":
        """K for the width x height window whose corner is (left, top) pixels.

        The window may reach over the frame (that is padding); only the principal point moves.
        """
        check_size("Trajectory.cropped", width, height)
        intrinsics = self.K.copy()
        intrinsics[:, :2, 2] -= (left, top)
        return replace(self, K=intrinsics, width=width, height=height)

    def fitted(self, width: int, height: int) -> "Trajectory":
        """K for frames scaled to cover width x height, then center-cropped."""
        scale = max(width / self.width, height / self.height)
        covering = self.resized(max(width, round(self.width * scale)), max(height, round(self.height * scale)))
        return covering.cropped((covering.width - width) / 2, (covering.height - height) / 2, width, height)

    def resampled(self, frames: int) -> "Trajectory":
        """`frames` cameras evenly spaced in frame time, ends kept: slerp for R, straight lines for centers and K."""
        if frames < 1:
            raise ValueError(f"Trajectory.resampled: frames is {frames}; ask for at least one")
        return self.at(np.arange(len(self), dtype=np.float64), np.linspace(0.0, len(self) - 1.0, frames))

    def at(self, time_in: np.ndarray, time_out: np.ndarray) -> "Trajectory":
        """The cameras of times `time_in`, interpolated at `time_out`: slerp for R, straight lines for centers and K."""
        flat = self.K.reshape(len(self), 9)
        intrinsics = np.stack([np.interp(time_out, time_in, flat[:, i]) for i in range(9)], axis=-1)
        return replace(
            self,
            pose_c2w=interpolate_rigid(self.pose_c2w, time_in, time_out),
            K=intrinsics.reshape(len(time_out), 3, 3),
        )


def intrinsics_from_fov(fov_rad_vertical: float | int, width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """K (3, 3) float64 of a pinhole with square pixels and a centered principal point.

    Args:
        fov_rad_vertical: full vertical field of view in radians, in (0, pi).
        width: image width in pixels.
        height: image height in pixels.
    """
    check_size("intrinsics_from_fov", width, height)
    if not 0 < fov_rad_vertical < np.pi:
        raise ValueError(f"intrinsics_from_fov: fov is {fov_rad_vertical} rad; give a full angle between 0 and pi")
    focal = height / 2 / np.tan(fov_rad_vertical / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def fov_from_intrinsics(
    K: Float[np.ndarray, "*n 3 3"], width: int, height: int
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Full fields of view in radians (vertical, horizontal) as the 9-D pose encoding defines them.

    2 atan(height / 2 / fy) and 2 atan(width / 2 / fx), whatever the principal point. Shapes (...) of K (..., 3, 3).
    """
    vertical = 2 * np.arctan(height / 2 / K[..., 1, 1])
    horizontal = 2 * np.arctan(width / 2 / K[..., 0, 0])
    return np.asarray(vertical), np.asarray(horizontal)
