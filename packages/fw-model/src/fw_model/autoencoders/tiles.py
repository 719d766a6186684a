"""Work on a large image in overlapping tiles that are blended where they overlap.

Axes: ``*lead`` the axes before rows and columns (batch, channels, frames), h w rows and columns.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def blend_tiles(
    x: Tensor, run: Callable[[Tensor], Tensor], *, tile: int, stride: int, numerator: int = 1, denominator: int = 1
) -> Tensor:
    """``run`` on tiles of ``x`` [*lead, h, w], put together with weights that fall linearly across each overlap.

    The weights of the tiles over a pixel sum to 1, so a ``run`` that works on every pixel by itself gives what it gives
    on the whole image. The last tile of a row or column ends at the image's edge.

    Args:
        x: the input; if it fits into one tile the result is ``run(x)`` exactly.
        run: gives ``numerator / denominator`` times as many rows and columns as it gets, ``denominator`` dividing them.
        tile: rows and columns of a tile, in pixels of ``x``.
        stride: from one tile to the next; what is missing to ``tile`` is the overlap.
        numerator: see ``run``.
        denominator: see ``run``.
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return run(x)
    rows, columns = (_tiles(size, tile, stride, numerator, denominator) for size in (height, width))
    out: Tensor | None = None
    for top, down in rows:
        for left, across in columns:
            part = run(x[..., top : top + tile, left : left + tile])
            if out is None:
                sides = (size * numerator // denominator for size in (height, width))
                out = part.new_zeros(*part.shape[:-2], *sides)
            y, z = (start * numerator // denominator for start in (top, left))
            weight = (down[:, None] * across).to(part)
            out[..., y : y + part.shape[-2], z : z + part.shape[-1]] += part * weight
    assert out is not None, "there is at least one tile"
    return out


def _tiles(size: int, tile: int, stride: int, numerator: int, denominator: int) -> list[tuple[int, Tensor]]:
    """Start (in the input) and weights (in the result) of the tiles along one axis."""
    starts = [0] if size <= tile else [*range(0, size - tile, stride), size - tile]
    scaled = [start * numerator // denominator for start in starts]
    length = min(size, tile) * numerator // denominator
    weights = [torch.ones(length, dtype=torch.float64) for _ in starts]
    for i in range(len(starts) - 1):
        overlap = scaled[i] + length - scaled[i + 1]
        if overlap > 0:
            ramp = (torch.arange(overlap, dtype=torch.float64) + 0.5) / overlap
            weights[i][length - overlap :] *= 1 - ramp
            weights[i + 1][:overlap] *= ramp
    total = torch.zeros(size * numerator // denominator, dtype=torch.float64)
    for start, weight in zip(scaled, weights, strict=True):
        total[start : start + length] += weight
    return [(a, w / total[b : b + length]) for a, b, w in zip(starts, scaled, weights, strict=True)]
