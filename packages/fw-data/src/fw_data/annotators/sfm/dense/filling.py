"""Depth for the pixels that nothing confirms: spread from confirmed pixels, stopping at edges of the image.

A weighted least-squares smoothing with color-dependent weights, solved one image line at a time (Min et al., "Fast
global image smoothing based on weighted least squares", TIP 2014). On inverse depth a plane stays a plane.
Axis legend: h height, w width, c channels, n lanes.
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from scipy.linalg import solveh_banded
from torch import Tensor

SMOOTHNESS = 200.0
EDGE = 0.015
SURE = 0.3
"""Trust from which a depth is kept as it is."""
FILLED_TRUST = 0.15


def fill_depth(
    depth: Float[Tensor, "h w"], trust: Float[Tensor, "h w"], guide: Float[Tensor, "h w"]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Depth of every pixel, and its trust: the given one where there is some, at most 0.15 where depth was spread."""
    weight = torch.where(depth > 0, (trust - 0.1).clamp_min(0) + 1e-6, 0.0)
    inverse = 1 / depth.clamp_min(1e-9)
    smooth, reached = spread(inverse, weight, guide, smoothness=SMOOTHNESS, edge=EDGE)
    keep = (trust / SURE).clamp(0, 1) * (depth > 0)
    filled = 1 / torch.lerp(smooth, inverse, keep).clamp_min(1e-9)
    spread_trust = FILLED_TRUST * (reached / SURE).clamp(0, 1)
    return torch.where(reached > 0, filled, 0.0), torch.maximum(trust * (depth > 0), spread_trust)


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

    Neighbors hold together with `smoothness`, less where the guide changes by more than `edge`.
    """
    pair = torch.stack([values * weight, weight])
    across, down = _bonds(guide, edge), _bonds(guide.T, edge)
    for turn in range(rounds):
        # Smoothness falls from round to round as in the paper, so that the passes do not leave streaks.
        strength = smoothness * 1.5 * 4 ** (rounds - turn - 1) / (4**rounds - 1)
        pair = _solve_lines(pair, across * strength)
        pair = rearrange(_solve_lines(rearrange(pair, "k h w -> k w h"), down * strength), "k w h -> k h w")
    return pair[0] / pair[1].clamp_min(1e-12), pair[1]


def _bonds(guide: Float[Tensor, "n w"], edge: float) -> Float[Tensor, "n w"]:
    """Weight of the link from each pixel to the next one of its line; 0 for the last one."""
    bonds = torch.zeros_like(guide)
    bonds[:, :-1] = torch.exp(-(guide[:, 1:] - guide[:, :-1]).abs() / edge)
    return bonds


def _solve_lines(values: Float[Tensor, "2 n w"], bond: Float[Tensor, "n w"]) -> Float[Tensor, "2 n w"]:
    """Solve (1 + laplacian) x = values along each line: one tridiagonal system, as no line is tied to the next."""
    links = bond.double().numpy().ravel()
    bands = np.ones((2, len(links)))
    bands[0] += links
    bands[0, 1:] += links[:-1]
    bands[1] = -links
    right = rearrange(values, "k n w -> (n w) k").double().numpy()
    solved = solveh_banded(bands, right, lower=True, check_finite=False)
    return rearrange(torch.from_numpy(solved).float(), "(n w) k -> k n w", n=values.shape[1])
