"""Depth maps of many frames made to agree: what other frames confirm stays, what they see through goes.

Depth is z-depth, 0 = invalid; poses are world-to-camera. Axis legend: f frames, h height, w width, n neighbors.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
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
    mass = own_weight.clone()
    support = torch.zeros_like(own)
    conflict = torch.zeros_like(own)
    for other in neighbors:
        place, z, inside = _project(points, K, pose_w2c[other] @ torch.linalg.inv(pose_w2c[frame]))
        theirs = depth[other].flatten()[place]
        trust = torch.where(inside & valid & (theirs > 0), weight[other].flatten()[place], 0.0)
        ratio = theirs / z.clamp_min(1e-9)
        agree = (ratio - 1).abs() < tolerance
        support += torch.where(agree, trust, 0.0)
        conflict += torch.where(ratio > 1 + 2 * tolerance, trust, 0.0)
        share = torch.where(agree, trust, 0.0)
        total += share / (own * ratio).clamp_min(1e-9)
        mass += share
    fused = torch.where(valid, mass / total, 0.0)
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
        good = inside & (trusted[other] > 0) & (depth[other] > 0)
        layer = torch.full((height * width,), torch.inf)
        layer.scatter_reduce_(0, place[good], z[good], reduce="amin")
        layers.append(layer.reshape(height, width))
    if not layers:
        return torch.zeros(height, width), torch.zeros(height, width)
    stack = torch.stack(layers).sort(dim=0).values
    count = torch.isfinite(stack).sum(dim=0)
    middle = ((count - 1) // 2).clamp_min(0)
    median = stack.gather(0, middle[None])[0]
    return torch.where(count > 0, median, 0.0), count.float()


def _unproject(depth: Float[Tensor, "h w"], K: Float[Tensor, "3 3"]) -> Float[Tensor, "3 h w"]:
    height, width = depth.shape
    return pixel_rays(height, width, K) * depth


def _project(
    points: Float[Tensor, "3 h w"], K: Float[Tensor, "3 3"], transform: Float[Tensor, "4 4"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat index of the pixel that each point falls on, its depth there, and whether it falls inside the frame."""
    height, width = points.shape[1:]
    moved = torch.einsum("ij,jhw->ihw", transform[:3, :3], points) + transform[:3, 3, None, None]
    z = moved[2]
    safe = z.clamp_min(1e-9)
    x = (K[0, 0] * moved[0] / safe + K[0, 2]).floor()
    y = (K[1, 1] * moved[1] / safe + K[1, 2]).floor()
    inside = (z > 1e-9) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    return index, z, inside
