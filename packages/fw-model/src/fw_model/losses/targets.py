"""The frame and the unit that the geometry branch learns in; targets and recovered cameras in its terms.

The world is seen from the first camera (its pose is the identity) and lengths are counted in the mean distance of
the valid points, so scenes of any size look alike to the network; the network itself normalizes nothing.

Axes: b batch, F frames, H W pixels. OpenCV camera axes, camera-to-world poses, z-depth with 0 = invalid.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from fw_geometry import decode_pose, encode_pose, se3_inverse, unproject
from fw_geometry.camera import Trajectory


@dataclass(frozen=True, kw_only=True)
class NormalizedScene:
    """A clip re-expressed in its first camera and divided by its scale."""

    depth: Float[Tensor, "b F H W"]
    """Depth in units of ``scale``."""
    points: Float[Tensor, "b F H W 3"]
    """Points in the first camera's frame, in units of ``scale``."""
    pose_c2w: Float[Tensor, "b F 4 4"]
    """Poses relative to the first camera (the first is the identity), translations in units of ``scale``."""
    scale: Float[Tensor, "b"]
    """Length, in the input's unit, of one unit of the normalized scene; 1 where nothing is valid."""


def normalize_scene(
    depth: Float[Tensor, "b F H W"],
    points: Float[Tensor, "b F H W 3"],
    pose_c2w: Float[Tensor, "b F 4 4"],
    mask: Bool[Tensor, "b F H W"],
    *,
    first_frame_only: bool = False,
) -> NormalizedScene:
    """Scene in units of the mean distance of its valid points from the first camera (FantasyWorld 1.8, after VGGT).

    Args:
        depth: z-depth, any one unit of length.
        points: world points of every pixel, same unit.
        pose_c2w: camera-to-world poses, same unit.
        mask: which pixels carry valid depth.
        first_frame_only: take the scale from frame 0 alone, the only one known at inference.
    """
    world_to_first = se3_inverse(pose_c2w[:, :1])
    points = torch.einsum("bij,bfhwj->bfhwi", world_to_first[:, 0, :3, :3], points) + rearrange(
        world_to_first[:, 0, :3, 3], "b c -> b 1 1 1 c"
    )
    pose = world_to_first @ pose_c2w
    used = mask.clone()
    if first_frame_only:
        used[:, 1:] = False
    distance = torch.where(used, points.norm(dim=-1), 0.0)
    count = reduce(used.to(distance.dtype), "b f h w -> b", "sum")
    mean = reduce(distance, "b f h w -> b", "sum") / count.clamp_min(1)
    scale = torch.where(mean > 0, mean, torch.ones_like(mean))
    per_pixel = rearrange(scale, "b -> b 1 1 1")
    pose = torch.cat([pose[..., :3, :3], pose[..., :3, 3:] / per_pixel], dim=-1)
    bottom = pose.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*pose.shape[:2], 1, 4)
    return NormalizedScene(
        depth=depth / per_pixel,
        points=points / per_pixel[..., None],
        pose_c2w=torch.cat([pose, bottom], dim=-2),
        scale=scale,
    )


def trajectory_scale(
    points: Float[Tensor, "*pixels 3"], mask: Bool[Tensor, "*pixels"], *, quantile: float = 0.95
) -> Float[Tensor, ""]:
    """The released inference scale: mean distance of frame 0's valid points up to their ``quantile`` distance.

    ``points`` are in the first camera's frame, in meters if the trajectory is. Dividing a metric trajectory by this
    number gives translations in the unit the network was trained in. 1 where nothing is valid.
    """
    distance = points.norm(dim=-1)[mask]
    if distance.numel() == 0:
        return points.new_ones(())
    near = distance <= torch.quantile(distance, quantile)
    return distance[near].sum() / (near.sum() + 1e-3)


@dataclass(frozen=True, kw_only=True)
class GeometryTargets:
    """Targets of the geometry heads for a clip, in normalized units."""

    depth: Float[Tensor, "b F H W"]
    """z-depth."""
    points: Float[Tensor, "b F H W 3"]
    """Points in the first camera's frame."""
    pose_encoding: Float[Tensor, "b F 9"]
    """World-to-camera translation, quaternion (x, y, z, w; w >= 0) and field of view (vertical, horizontal; rad)."""
    mask: Bool[Tensor, "b F H W"]
    """Pixels whose depth and point count."""
    weight: Float[Tensor, "b F H W"] | None = None
    """Optional trust in each pixel's label, in [0, 1] (the annotation's confidence)."""


def geometry_targets(
    depth: Float[Tensor, "b F H W"],
    K: Float[Tensor, "b F 3 3"],
    pose_c2w: Float[Tensor, "b F 4 4"],
    *,
    mask: Bool[Tensor, "b F H W"] | None = None,
    weight: Float[Tensor, "b F H W"] | None = None,
    first_frame_only: bool = False,
) -> tuple[GeometryTargets, NormalizedScene]:
    """Targets of a clip from its depth and cameras, and the normalized scene (its pose and scale feed the rays).

    Args:
        depth: z-depth, 0 or not finite = invalid.
        K: intrinsics in pixels of the depth maps.
        pose_c2w: camera-to-world poses in the unit of depth.
        mask: further restriction of the valid pixels.
        weight: trust in each pixel's label, in [0, 1].
        first_frame_only: see ``normalize_scene``.
    """
    valid = depth.isfinite() & (depth > 0)
    if mask is not None:
        valid = valid & mask
    depth = torch.where(valid, depth, 0.0)
    scene = normalize_scene(depth, unproject(depth, K, pose_c2w), pose_c2w, valid, first_frame_only=first_frame_only)
    height, width = depth.shape[-2:]
    targets = GeometryTargets(
        depth=scene.depth,
        points=scene.points,
        pose_encoding=encode_pose(se3_inverse(scene.pose_c2w), K, height, width),
        mask=valid,
        weight=weight,
    )
    return targets, scene


def recovered_path(encoding: Float[Tensor, "F 9"], requested: Trajectory) -> Trajectory:
    """The cameras that the camera head predicts, relative to the first one; size and units of the requested path."""
    encoding = encoding.cpu().double()  # in this order: mps has no float64
    # a field of view of 0 or of a half turn is no camera; an untrained head predicts such values
    encoding = torch.cat([encoding[:, :7], encoding[:, 7:].clamp(0.02, 3.0)], dim=-1)
    pose_w2c, K = decode_pose(encoding, requested.height, requested.width)
    path = Trajectory(
        pose_c2w=se3_inverse(pose_w2c).numpy(),
        K=K.numpy(),
        width=requested.width,
        height=requested.height,
        units=requested.units,
    )
    return path.relative_to_first()
