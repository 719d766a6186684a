"""Process a large image in overlapping tiles, blended in the overlaps.

Axes: ``*lead`` the axes before rows and columns (batch, channels, frames), h w rows and columns.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def blend_tiles(
    x: Tensor, run: Callable[[Tensor], Tensor], *, tile: int, stride: int, numerator: int = 1, denominator: int = 1
) -> Tensor:
    """Apply ``run`` to tiles of ``x`` [*lead, h, w] and sum them with weights that fall linearly across each overlap.

    The weights over a pixel sum to 1, so a pixelwise ``run`` gives the same result as on the whole image. The last tile
    of a row or column ends at the image's edge.

    Args:
        x: the input; if it fits into one tile the result is ``run(x)`` exactly.
        run: maps n rows or columns to n * ``numerator`` / ``denominator``, a whole number.
        tile: rows and columns of a tile, in pixels of ``x``.
        stride: distance of neighboring tiles; the overlap is ``tile - stride``.
        numerator: see ``run``.
        denominator: see ``run``.
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return run(x)
    # start and weights of the tiles along each axis
    rows, columns = (_tiles(size, tile, stride, numerator, denominator) for size in (height, width))
    out: Tensor | None = None
    for top, down in rows:
        for left, across in columns:
            # the first result gives the number of channels and the type
            part = run(x[..., top : top + tile, left : left + tile])
            if out is None:
                sides = (size * numerator // denominator for size in (height, width))
                out = part.new_zeros(*part.shape[:-2], *sides)
            # add the weighted tile at its place in the result
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
    # ramps over the overlap of neighbors
    weights = [torch.ones(length, dtype=torch.float64) for _ in starts]
    for i in range(len(starts) - 1):
        overlap = scaled[i] + length - scaled[i + 1]
        if overlap > 0:
            ramp = (torch.arange(overlap, dtype=torch.float64) + 0.5) / overlap
            weights[i][length - overlap :] *= 1 - ramp
            weights[i + 1][:overlap] *= ramp
    # a third tile may overlap too, so divide by the sum
    total = torch.zeros(size * numerator // denominator, dtype=torch.float64)
    for start, weight in zip(scaled, weights, strict=True):
        total[start : start + length] += weight
    return [(a, w / total[b : b + length]) for a, b, w in zip(starts, scaled, weights, strict=True)]
