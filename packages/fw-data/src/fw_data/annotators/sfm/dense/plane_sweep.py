"""Agreement of each depth hypothesis with other views: plane sweep with normalized cross-correlation.

Collins, "A space-sweep approach to true multi-image matching", CVPR 1996. Inverse depth is used throughout: its planes
are evenly spread in the image. Axis legend: d depth hypotheses, h height, w width, s source views.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

MIN_DEVIATION = 0.008
"""Gray values in [0, 1]: windows with less contrast than this are plain, and plain windows do not match."""


NOT_SEEN = -2.0


def matching_scores(
    reference: Float[Tensor, "h w"],
    sources: Float[Tensor, "s h w"],
    inverse_depth: Float[Tensor, "d #h #w"],
    K: Float[Tensor, "3 3"],
    source_from_reference: Float[Tensor, "s 4 4"],
    *,
    radius: int,
    best: int,
) -> Float[Tensor, "d h w"]:
    """Mean correlation, in [-1, 1], over the `best` source views that agree most (fewer at the rim).

    0 where no source sees the place. Taking the best half of the views is what makes the score robust to occlusion
    (Kang, Szeliski, Chai, CVPR 2001). Images are gray in [0, 1]; K is shared; `inverse_depth` is one value per plane or
    a map per hypothesis.
    """
    height, width = reference.shape
    mean = box_mean(reference[None], radius)
    centered = reference - mean
    window = _Window(
        centered=centered,
        leak=box_mean(centered, radius),
        variance=(box_mean(reference[None] ** 2, radius) - mean**2).clamp_min(0),
    )
    tops = [torch.full((len(inverse_depth), height, width), NOT_SEEN) for _ in range(best)]
    rays = pixel_rays(height, width, K)
    for source, pose in zip(sources, source_from_reference, strict=True):
        warped, inside = warp_source(source, inverse_depth, K, pose, rays)
        score = _correlation(window, warped, radius).masked_fill_(~inside, NOT_SEEN)
        _keep_best(tops, score)
    total = torch.zeros_like(tops[0])
    views = torch.zeros_like(tops[0])
    for top in tops:
        seen = top > NOT_SEEN
        total += top * seen
        views += seen
    return total / views.clamp_min_(1)


def warp_source(
    source: Float[Tensor, "h w"],
    inverse_depth: Float[Tensor, "d #h #w"],
    K: Float[Tensor, "3 3"],
    source_from_reference: Float[Tensor, "4 4"],
    rays: Float[Tensor, "3 h w"],
) -> tuple[Float[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
    """The source as the reference would see it if each pixel had the given inverse depth; and where it is defined."""
    height, width = source.shape
    to_grid = torch.tensor([[2.0 / width, 0, -1], [0, 2.0 / height, -1], [0, 0, 1]])
    A = to_grid @ K @ source_from_reference[:3, :3]
    b = to_grid @ K @ source_from_reference[:3, 3]
    turned = torch.einsum("ij,jhw->ihw", A, rays)
    grid = torch.empty(len(inverse_depth), height, width, 2)
    shrink = (turned[2] + b[2] * inverse_depth).clamp_min_(1e-6).reciprocal_()
    for axis in (0, 1):
        torch.mul(turned[axis] + b[axis] * inverse_depth, shrink, out=grid[..., axis])
    # Outside the source the sampler gives 0; lifted by one, every value from inside is at least 1.
    image = (source + 1)[None, None].expand(len(grid), 1, height, width)
    warped = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)[:, 0]
    return warped.sub_(1), warped > -0.01


def box_mean(values: Float[Tensor, "d h w"], radius: int) -> Float[Tensor, "d h w"]:
    """Mean over a square window; at the border the nearest pixels repeat."""
    if radius == 0:
        return values
    size = 2 * radius + 1
    height, width = values.shape[1:]
    padded = F.pad(values[None], (radius,) * 4, mode="replicate")[0]
    rows = padded[:, :height] + padded[:, 1 : height + 1]
    for i in range(2, size):
        rows += padded[:, i : height + i]
    both = rows[:, :, :width] + rows[:, :, 1 : width + 1]
    for i in range(2, size):
        both += rows[:, :, i : width + i]
    return both.mul_(1 / size**2)


def refine_between_planes(cost: Float[Tensor, "d h w"], index: Tensor) -> Float[Tensor, "h w"]:
    """Position of the minimum in steps of one plane, from the parabola through the best plane and its neighbors."""
    last = len(cost) - 1
    middle = cost.gather(0, index[None])[0]
    before = cost.gather(0, (index - 1).clamp_min(0)[None])[0]
    after = cost.gather(0, (index + 1).clamp_max(last)[None])[0]
    curvature = before + after - 2 * middle
    shift = torch.where(curvature > 1e-6, (before - after) / (2 * curvature.clamp_min(1e-6)), 0.0).clamp(-0.5, 0.5)
    interior = (index > 0) & (index < last)
    return index + torch.where(interior, shift, 0.0)


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Window statistics of the reference for the correlation."""

    centered: Float[Tensor, "1 h w"]
    """The reference less its window mean."""
    leak: Float[Tensor, "1 h w"]
    """Mean of `centered` in each window."""
    variance: Float[Tensor, "1 h w"]


def _correlation(window: _Window, warped: Tensor, radius: int) -> Tensor:
    mean = box_mean(warped, radius)
    product = box_mean(warped * window.centered, radius).sub_(mean * window.leak)
    spread = box_mean(warped * warped, radius).sub_(mean.mul_(mean)).clamp_min_(0)
    floor = MIN_DEVIATION**2
    return product.mul_(spread.add_(floor).mul_(window.variance + floor).rsqrt_())


def _keep_best(tops: list[Tensor], score: Tensor) -> None:
    """Insert one score per place into the lists of the best ones, in place; `score` is used up."""
    for rank, top in enumerate(tops):
        if rank + 1 == len(tops):
            torch.maximum(top, score, out=top)
        else:
            lower = torch.minimum(top, score)
            torch.maximum(top, score, out=top)
            score = lower


def pixel_rays(height: int, width: int, K: Float[Tensor, "3 3"]) -> Float[Tensor, "3 h w"]:
    """Directions through all pixel centers, with z = 1."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)])
    return torch.einsum("ij,jhw->ihw", torch.linalg.inv(K), pixels)
