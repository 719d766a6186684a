"""Smooth depth that may jump at image edges: semi-global aggregation of matching costs.

Hirschmueller, "Stereo processing by semi-global matching and mutual information", TPAMI 2008. Axis legend: d depth
planes, h height, w width, n lanes that run side by side (both ways along each line).
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
    down = _both_ways(rearrange(cost, "d h w -> h d w"), guide, small_step, large_step, edge)
    across = _both_ways(rearrange(cost, "d h w -> w d h"), guide.T, small_step, large_step, edge)
    return (rearrange(down, "h d w -> d h w") + rearrange(across, "w d h -> d h w")).div_(4)


def _both_ways(
    volume: Float[Tensor, "h d w"], guide: Float[Tensor, "h w"], small_step: float, large_step: float, edge: float
) -> Float[Tensor, "h d w"]:
    """Sum of the costs of the paths that come down and of those that go up; both are walked at once."""
    change = (guide[1:] - guide[:-1]).abs()
    jump = small_step + (large_step - small_step) * torch.exp(-change / edge)
    both = torch.cat([volume, volume.flip(0)], dim=2)  # h d n
    jumps = torch.cat([jump, jump.flip(0)], dim=1)
    rows = both.unbind(0)
    level, best = torch.empty_like(rows[0]), torch.empty_like(rows[0])
    for previous, row, jump in zip(rows[:-1], rows[1:], jumps.unbind(0), strict=True):
        _carry(previous, small_step, jump, level, best)
        row += best
    width = volume.shape[2]
    return both[..., :width] + both[..., width:].flip(0)


def _carry(
    previous: Float[Tensor, "d n"],
    small_step: float,
    jump: Float[Tensor, " n"],
    level: Float[Tensor, "d n"],
    best: Float[Tensor, "d n"],
) -> None:
    """Cost that the cheapest path adds at the next pixel, less its minimum (so that it stays bounded), into `best`."""
    torch.sub(previous, previous.amin(dim=0), out=level)
    torch.minimum(level, jump, out=best)
    level += small_step
    torch.minimum(best[1:], level[:-1], out=best[1:])
    torch.minimum(best[:-1], level[1:], out=best[:-1])
