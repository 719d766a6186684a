"""Pluecker rays of the cameras, in the convention that a model was trained with.

Axes: b batch, F frames, h w rows and columns of the ray map. OpenCV camera axes, camera-to-world poses.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fw_geometry.camera import Trajectory
from fw_geometry.rays import plucker_rays, plucker_rays_double_scaled
from fw_model.config import WorldConfig
from fw_model.layers.float32 import without_autocast

RayConvention = Literal["correct", "double_scaled", "relative"]
"""Values of `Compat.plucker`."""
_START_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class RayMap:
    """Pluecker maps of a batch of clips and their convention; a model refuses another convention than its own."""

    rays: Float[Tensor, "b F h w 6"]
    """Moment o x d, then direction d."""
    convention: RayConvention
    """Convention of the rays, as in `Compat.plucker`."""

    @classmethod
    def from_cameras(
        cls,
        config: WorldConfig,
        K: Float[Tensor, "b F 3 3"],
        pose_c2w: Float[Tensor, "b F 4 4"],
        height: int,
        width: int,
    ) -> "RayMap":
        """The rays that a model of this config reads.

        Args:
            config: config of the model.
            K: intrinsics in pixels of a height x width image.
            pose_c2w: camera-to-world, relative to the first frame, in scene units.
            height: rows of the map, `downscale` (8 without a pose encoder) times those of the latents.
            width: columns of the map.

        Raises:
            ValueError: the first pose is not the identity.
        """
        if not pose_c2w.is_meta:
            start = (pose_c2w[:, 0] - torch.eye(4, dtype=pose_c2w.dtype, device=pose_c2w.device)).abs().max()
            if not float(start) < _START_TOLERANCE:
                raise ValueError(
                    f"the first pose differs from the identity by {float(start):.3g}; make the poses relative to the "
                    "first frame (Trajectory.relative_to_first, or normalize_scene)"
                )
        convention = config.compat.plucker
        with without_autocast(K):
            return cls(rays=_RAYS[convention](K, pose_c2w, height, width), convention=convention)

    @classmethod
    def from_trajectory(cls, config: WorldConfig, path: Trajectory) -> "RayMap | None":
        """Float32 rays of one camera path for frames of its size, on the CPU; None if the model reads no cameras."""
        if config.camera is None and config.video.control_dim is None:
            return None
        scale = 8 if config.camera is None else config.camera.downscale
        height, width = scale * path.height // 8, scale * path.width // 8
        path = path if scale == 8 else path.resized(width, height)
        K, pose_c2w = torch.from_numpy(path.K)[None], torch.from_numpy(path.pose_c2w)[None]
        made = cls.from_cameras(config, K, pose_c2w, height, width)
        return replace(made, rays=made.rays.float())

    def __getitem__(self, samples: slice) -> "RayMap":
        """The rays of some samples of the batch."""
        return replace(self, rays=self.rays[samples])

    def to(self, device: torch.device | str) -> "RayMap":
        """The same rays on a device."""
        return replace(self, rays=self.rays.to(device))


def check_rays(config: WorldConfig, plucker: object) -> None:
    """Raise TypeError unless `plucker` is a `RayMap` or None, and ValueError for rays of another convention."""
    if plucker is None:
        return
    if not isinstance(plucker, RayMap):
        raise TypeError(
            f"plucker is a {type(plucker).__name__}; give a RayMap, which knows its convention: "
            "world.ray_map(K, pose_c2w, height, width)"
        )
    if plucker.convention != config.compat.plucker:
        raise ValueError(
            f"plucker has rays of the convention {plucker.convention!r}, and model {config.name!r} was trained with "
            f"{config.compat.plucker!r} (compat.plucker); make them with world.ray_map(K, pose_c2w, height, width)"
        )


def relative_rays(
    K: Float[Tensor, "*b F 3 3"], pose_c2w: Float[Tensor, "*b F 4 4"], height: int, width: int
) -> Float[Tensor, "*b F h w 6"]:
    """Pluecker rays whose direction is relative to frame 0: all zeros while the camera does not move.

    98 % of the plain direction is the same for every path, and a small pose encoder trained from scratch passes on
    little else. Arguments and result as in `plucker_rays`.
    """
    rays = plucker_rays(K, pose_c2w, height, width)
    return torch.cat([rays[..., :3], rays[..., 3:] - rays[..., :1, :, :, 3:]], dim=-1)


_RAYS: dict[RayConvention, Callable[[Tensor, Tensor, int, int], Tensor]] = {
    "correct": plucker_rays,
    "double_scaled": plucker_rays_double_scaled,
    "relative": relative_rays,
}
