"""Depth maps of many frames made to agree: what other frames confirm stays, what they see through goes.

Depth is z-depth, 0 = invalid; poses are world-to-camera. Axis legend: f frames, h height, w width, n pixels of a frame.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fw_data.annotators.sfm.dense.plane_sweep import pixel_rays


@dataclass(frozen=True, kw_only=True)
class FusedDepth:
    """One frame after comparison with its neighbors."""

    depth: Float[Tensor, "h w"]
    """Weighted mean (of inverse depth) of the own value and all that agree with it."""
    support: Float[Tensor, "h w"]
    """Sum of the weights of neighbors that agree."""
    conflict: Float[Tensor, "h w"]
    """Sum of the weights of neighbors that see something further away through this place."""


def compare_with_neighbors(
    frame: int,
    neighbors: list[int],
    depth: Float[Tensor, "f h w"],
    weight: Float[Tensor, "f h w"],
    K: Float[Tensor, "3 3"],
    pose_w2c: Float[Tensor, "f 4 4"],
    *,
    tolerance: float,
) -> FusedDepth:
    """Check one frame's depth against its neighbors' maps; two depths agree within `tolerance`, relative."""
    own = depth[frame]
    valid = own > 0
    points = _unproject(own, K)
    own_weight = torch.where(valid, weight[frame], 0.0).clamp_min(1e-3)
    total = own_weight / own.clamp_min(1e-9)
    support = torch.zeros_like(own)
    conflict = torch.zeros_like(own)
    for other in neighbors:
        place, z, inside = _project(points, K, pose_w2c[other] @ torch.linalg.inv(pose_w2c[frame]))
        theirs = depth[other].flatten().index_select(0, place).view_as(own)
        trust = weight[other].flatten().index_select(0, place).view_as(own) * (inside & valid & (theirs > 0))
        ratio = theirs / z
        share = trust * ((ratio - 1).abs_() < tolerance)
        support += share
        conflict += trust * (ratio > 1 + 2 * tolerance)
        total += share / ratio.mul_(own).clamp_min_(1e-9)
    fused = torch.where(valid, (own_weight + support) / total, 0.0)
    return FusedDepth(depth=fused, support=support, conflict=conflict)


def carry_over(
    frame: int,
    neighbors: list[int],
    depth: Float[Tensor, "f h w"],
    trusted: Float[Tensor, "f h w"],
    K: Float[Tensor, "3 3"],
    pose_w2c: Float[Tensor, "f 4 4"],
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """The neighbors' trusted depth as this frame would see it: median over neighbors, and how many there were.

    Each neighbor's points are drawn into the frame with a depth test; pixels that nothing falls on are 0.
    """
    height, width = depth.shape[1:]
    layers = []
    for other in neighbors:
        points = _unproject(depth[other], K)
        place, z, inside = _project(points, K, pose_w2c[frame] @ torch.linalg.inv(pose_w2c[other]))
        good = (inside & (trusted[other] > 0) & (depth[other] > 0)).flatten()
        layer = torch.full((height * width,), torch.inf)
        layer.scatter_reduce_(0, place[good], z.flatten()[good], reduce="amin")
        layers.append(layer.reshape(height, width))
    if not layers:
        return torch.zeros(height, width), torch.zeros(height, width)
    for last in range(len(layers) - 1, 0, -1):  # sorts each pixel of a few layers much faster than torch.sort
        for i in range(last):
            layers[i], layers[i + 1] = torch.minimum(layers[i], layers[i + 1]), torch.maximum(layers[i], layers[i + 1])
    stack = torch.stack(layers)
    count = torch.isfinite(stack).sum(dim=0)
    middle = ((count - 1) // 2).clamp_min(0)
    median = stack.gather(0, middle[None])[0]
    return torch.where(count > 0, median, 0.0), count.float()


def _unproject(depth: Float[Tensor, "h w"], K: Float[Tensor, "3 3"]) -> Float[Tensor, "3 h w"]:
    height, width = depth.shape
    return pixel_rays(height, width, K) * depth


def _project(
    points: Float[Tensor, "3 h w"], K: Float[Tensor, "3 3"], transform: Float[Tensor, "4 4"]
) -> tuple[Int64[Tensor, " n"], Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Flat index of the pixel that each point falls on, its depth there, and whether it falls inside the frame."""
    height, width = points.shape[1:]
    moved = K @ transform[:3]
    x, y, z = torch.addmm(moved[:, 3:], moved[:, :3], points.flatten(1)).view_as(points)
    seen = z > 1e-9
    z = z.clamp_min(1e-9)
    x = x.div_(z).floor_()
    y = y.div_(z).floor_()
    inside = seen & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp_(0, height - 1).mul_(width).add_(x.clamp_(0, width - 1)).long()
    return index.flatten(), z, inside
