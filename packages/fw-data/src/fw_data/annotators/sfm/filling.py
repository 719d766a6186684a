"""Depth for the pixels that nothing confirms: spread from confirmed pixels, stopping at edges of the picture.

A weighted least-squares smoothing with colour-dependent weights, solved one image line at a time (Min et al., "Fast
global image smoothing based on weighted least squares", TIP 2014). On inverse depth a plane stays a plane.
Axis legend: h height, w width, c channels, n lanes.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


SMOOTHNESS = 200.0
EDGE = 0.015
SURE = 0.3
"""Trust from which a depth is kept as it is."""
FILLED_CONFIDENCE = 0.15


def fill_depth(
    depth: Float[Tensor, "h w"], trust: Float[Tensor, "h w"], guide: Float[Tensor, "h w"]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Depth of every pixel, and confidence: `trust` where there is some, at most 0.15 where depth was spread."""
    weight = torch.where(depth > 0, (trust - 0.1).clamp_min(0) + 1e-6, 0.0)
    inverse = 1 / depth.clamp_min(1e-9)
    smooth, reached = spread(inverse, weight, guide, smoothness=SMOOTHNESS, edge=EDGE)
    keep = (trust / SURE).clamp(0, 1) * (depth > 0)
    filled = 1 / torch.lerp(smooth, inverse, keep).clamp_min(1e-9)
    confidence = torch.maximum(trust * (depth > 0), FILLED_CONFIDENCE * (reached / SURE).clamp(0, 1))
    return torch.where(reached > 0, filled, 0.0), confidence


def spread(
    values: Float[Tensor, "h w"],
    weight: Float[Tensor, "h w"],
    guide: Float[Tensor, "h w"],
    *,
    smoothness: float,
    edge: float,
    rounds: int = 3,
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Values everywhere, close to the given ones where `weight` is large; and how much weight reached each pixel.

    Neighbours hold together with `smoothness`, less where the guide changes by more than `edge`.
    """
    top, bottom = values * weight, weight.clone()
    across = _bonds(guide, edge)
    down = _bonds(guide.T, edge)
    for turn in range(rounds):
        # Smoothness falls from round to round as in the paper, so that the passes do not leave streaks.
        strength = smoothness * 1.5 * 4 ** (rounds - turn - 1) / (4**rounds - 1)
        for bonds, transposed in ((across, False), (down, True)):
            pair = torch.stack([top, bottom])
            pair = rearrange(pair, "k h w -> k w h") if transposed else pair
            solved = _solve_lines(pair, bonds * strength)
            top, bottom = rearrange(solved, "k w h -> k h w") if transposed else solved
    return top / bottom.clamp_min(1e-12), bottom


def _bonds(guide: Float[Tensor, "n w"], edge: float) -> Float[Tensor, "n w-1"]:
    return torch.exp(-(guide[:, 1:] - guide[:, :-1]).abs() / edge)


def _solve_lines(values: Float[Tensor, "2 n w"], bond: Float[Tensor, "n w-1"]) -> Float[Tensor, "2 n w"]:
    """Solve (1 + laplacian) x = values along each line by the tridiagonal (Thomas) algorithm."""
    lanes = rearrange(values, "k n w -> w k n").contiguous()
    link = rearrange(bond, "n w -> w n").contiguous()
    zero = torch.zeros_like(link[:1])
    diagonal = 1 + torch.cat([zero, link]) + torch.cat([link, zero])
    ratio = torch.empty_like(link)
    out = torch.empty_like(lanes)
    pivot = diagonal[0]
    out[0] = lanes[0] / pivot
    for i in range(1, len(lanes)):
        ratio[i - 1] = link[i - 1] / pivot
        pivot = diagonal[i] - link[i - 1] * ratio[i - 1]
        out[i] = (lanes[i] + link[i - 1] * out[i - 1]) / pivot
    for i in range(len(lanes) - 2, -1, -1):
        out[i] += ratio[i] * out[i + 1]
    return rearrange(out, "w k n -> k n w")
