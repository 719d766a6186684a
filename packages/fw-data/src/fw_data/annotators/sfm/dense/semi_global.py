"""Smooth depth that may jump at image edges: semi-global aggregation of matching costs.

Hirschmueller, "Stereo processing by semi-global matching and mutual information", TPAMI 2008. Axis legend: d depth
planes, h height, w width, n lanes that run side by side.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def aggregate(
    cost: Float[Tensor, "d h w"],
    guide: Float[Tensor, "h w"],
    *,
    small_step: float,
    large_step: float,
    edge: float = 0.04,
) -> Float[Tensor, "d h w"]:
    """Mean over four directions of the cheapest path cost that ends in each pixel and plane.

    A step of one plane between neighbors costs `small_step`, any larger one `large_step`, less where the gray `guide`
    (in [0, 1]) changes by more than `edge`.
    """
    planes_last = rearrange(cost, "d h w -> h w d").contiguous()
    total = torch.zeros_like(planes_last)
    for transposed in (False, True):
        volume = rearrange(planes_last, "h w d -> w h d").contiguous() if transposed else planes_last
        image = guide.T if transposed else guide
        part = _both_ways(volume, image, small_step, large_step, edge)
        total += rearrange(part, "w h d -> h w d") if transposed else part
    return rearrange(total / 4, "h w d -> d h w")


def _both_ways(
    volume: Float[Tensor, "h w d"], guide: Float[Tensor, "h w"], small_step: float, large_step: float, edge: float
) -> Float[Tensor, "h w d"]:
    """Sum of the costs of the paths that come down and of those that go up; both are walked at once."""
    change = (guide[1:] - guide[:-1]).abs()
    jump = small_step + (large_step - small_step) * torch.exp(-change / edge)
    both = torch.stack([volume, volume.flip(0)], dim=1)  # h 2 w d
    jumps = torch.stack([jump, jump.flip(0)], dim=1)[..., None]
    for row in range(1, len(both)):
        both[row] += _carry(both[row - 1], small_step, jumps[row - 1])
    return both[:, 0] + both[:, 1].flip(0)


def _carry(previous: Float[Tensor, "2 n d"], small_step: float, jump: Float[Tensor, "2 n 1"]) -> Float[Tensor, "2 n d"]:
    """Cost that the cheapest path adds at the next pixel, less its minimum (so that it stays bounded)."""
    level = previous - previous.amin(dim=2, keepdim=True)
    best = torch.minimum(level, jump)
    level += small_step
    torch.minimum(best[..., 1:], level[..., :-1], out=best[..., 1:])
    torch.minimum(best[..., :-1], level[..., 1:], out=best[..., :-1])
    return best
