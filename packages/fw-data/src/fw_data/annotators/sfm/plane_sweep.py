"""How well each depth of each pixel agrees with other views: plane sweep with normalised cross-correlation.

Collins, "A space-sweep approach to true multi-image matching", CVPR 1996. Inverse depth is used throughout: its planes
are evenly spread in the image. Axis legend: d depth hypotheses, h height, w width, s source views.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MIN_DEVIATION = 0.008
"""Of grey values in [0, 1]: windows with less contrast than this count as plain, and plain windows do not match."""


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
    """Mean correlation, in [-1, 1], over the `best` source views that agree most (fewer at the rim); 0 where none sees it.

    Taking the best half of the views is what makes the score robust to occlusion (Kang, Szeliski, Chai, CVPR 2001).
    Images are grey in [0, 1]; K is shared; `inverse_depth` is one value per plane or a map per hypothesis.
    """
    height, width = reference.shape
    mean = box_mean(reference[None], radius)[0]
    centred = reference - mean
    variance = (box_mean((reference**2)[None], radius)[0] - mean**2).clamp_min(0)
    tops = [torch.full((len(inverse_depth), height, width), NOT_SEEN) for _ in range(best)]
    rays = _rays(height, width, K)
    for source, pose in zip(sources, source_from_reference, strict=True):
        warped, inside = warp_source(source, inverse_depth, K, pose, rays)
        score = _correlation(centred, variance, warped, radius)
        score = torch.where(inside, score, NOT_SEEN)
        _keep_best(tops, score)
    total = torch.zeros_like(tops[0])
    views = torch.zeros_like(tops[0])
    for top in tops:
        seen = top > NOT_SEEN
        total += torch.where(seen, top, 0.0)
        views += seen
    return total / views.clamp_min(1)


def warp_source(
    source: Float[Tensor, "h w"],
    inverse_depth: Float[Tensor, "d #h #w"],
    K: Float[Tensor, "3 3"],
    source_from_reference: Float[Tensor, "4 4"],
    rays: Float[Tensor, "3 h w"],
) -> tuple[Float[Tensor, "d h w"], Tensor]:
    """The source as the reference would see it if each pixel had the given inverse depth; and where it is defined."""
    height, width = source.shape
    to_grid = torch.tensor([[2.0 / width, 0, -1], [0, 2.0 / height, -1], [0, 0, 1]])
    A = to_grid @ K @ source_from_reference[:3, :3]
    b = to_grid @ K @ source_from_reference[:3, 3]
    turned = torch.einsum("ij,jhw->ihw", A, rays)
    z = turned[2] + b[2] * inverse_depth
    safe = z.clamp_min(1e-6)
    x = (turned[0] + b[0] * inverse_depth) / safe
    y = (turned[1] + b[1] * inverse_depth) / safe
    inside = (x.abs() < 1) & (y.abs() < 1) & (z > 1e-6)
    grid = torch.stack([x, y], dim=-1)
    image = source[None, None].expand(len(grid), 1, height, width)
    warped = F.grid_sample(image, grid, padding_mode="border", align_corners=False)[:, 0]
    return warped, inside


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
    return both / size**2


def refine_between_planes(cost: Float[Tensor, "d h w"], index: Tensor) -> Float[Tensor, "h w"]:
    """Position of the minimum in steps of one plane, from the parabola through the best plane and its neighbours."""
    last = len(cost) - 1
    middle = cost.gather(0, index[None])[0]
    before = cost.gather(0, (index - 1).clamp_min(0)[None])[0]
    after = cost.gather(0, (index + 1).clamp_max(last)[None])[0]
    curvature = before + after - 2 * middle
    shift = torch.where(curvature > 1e-6, (before - after) / (2 * curvature.clamp_min(1e-6)), 0.0).clamp(-0.5, 0.5)
    interior = (index > 0) & (index < last)
    return index + torch.where(interior, shift, 0.0)


def _correlation(centred: Tensor, variance: Tensor, warped: Tensor, radius: int) -> Tensor:
    mean = box_mean(warped, radius)
    # The covariance needs no mean of the warped image: the centred reference nearly sums to zero in its window, and
    # what is left is taken out exactly by its own mean.
    product = box_mean(warped * centred, radius) - mean * box_mean(centred[None], radius)
    spread = (box_mean(warped * warped, radius) - mean * mean).clamp_min(0)
    floor = MIN_DEVIATION**2
    return product / ((spread + floor) * (variance + floor)).sqrt()


def _keep_best(tops: list[Tensor], score: Tensor) -> None:
    """Insert one score per place into the lists of the best ones, in place."""
    rest = score
    for top in tops:
        higher = torch.maximum(top, rest)
        rest = torch.minimum(top, rest)
        top.copy_(higher)


def _rays(height: int, width: int, K: Tensor) -> Float[Tensor, "3 h w"]:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)])
    return torch.einsum("ij,jhw->ihw", torch.linalg.inv(K), pixels)
