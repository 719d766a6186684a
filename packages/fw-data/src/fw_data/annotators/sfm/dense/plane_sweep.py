"""Agreement of each depth hypothesis with other views: plane sweep with normalized cross-correlation.

Collins, "A space-sweep approach to true multi-image matching", CVPR 1996. Inverse depth is used throughout: its planes
are evenly spread in the image. Axis legend: d depth hypotheses, h height, w width, s source views.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float32
from torch import Tensor

MIN_DEVIATION = 0.008
"""Gray values in [0, 1]: windows with less contrast than this are plain, and plain windows do not match."""


NOT_SEEN = -2.0
OUTSIDE = -0.01
"""Warped values below this come from outside of the source."""
MIN_DEPTH = 1e-4
"""Of a place in front of a source, over its depth in front of the reference."""
AT_ONCE = 2**17
"""Hypotheses that are compared at once: few enough that all steps of a comparison find them in the cache."""


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
    window = _window(reference, radius)
    height, width = reference.shape
    rays = pixel_rays(height, width, K)
    views = [_view(source, K, pose, rays) for source, pose in zip(sources, source_from_reference, strict=True)]
    planes = max(1, AT_ONCE // reference.numel())
    scores = torch.empty(len(inverse_depth), height, width)
    for part, score in zip(inverse_depth.split(planes), scores.split(planes), strict=True):
        score.copy_(_scores(window, views, part, radius, best))
    return scores


def _scores(
    window: "_Window", views: list["_View"], inverse_depth: Float[Tensor, "d #h #w"], radius: int, best: int
) -> Float[Tensor, "d h w"]:
    tops = [torch.full((len(inverse_depth), *window.scale.shape[1:]), NOT_SEEN) for _ in range(best)]
    for view in views:
        warped = view.warp(inverse_depth)
        score = _correlation(window, warped, radius)
        # far below NOT_SEEN where the view does not see the place, and no limit elsewhere
        _keep_best(tops, torch.minimum(score, warped.sub_(OUTSIDE).mul_(1e6), out=score))
    total = torch.zeros_like(tops[0])
    count = torch.zeros_like(tops[0])
    for top in tops:
        total += top
        count += top.sub_(NOT_SEEN).clamp_max_(1)
    return total.sub_(best - count, alpha=NOT_SEEN).div_(count.clamp_min_(1))


def warp_source(
    source: Float[Tensor, "h w"],
    inverse_depth: Float[Tensor, "d #h #w"],
    K: Float[Tensor, "3 3"],
    source_from_reference: Float[Tensor, "4 4"],
    rays: Float[Tensor, "3 h w"],
) -> tuple[Float[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
    """The source as the reference would see it if each pixel had the given inverse depth; and where it is defined."""
    warped = _view(source, K, source_from_reference, rays).warp(inverse_depth)
    return warped, warped > OUTSIDE


def box_mean(values: Float[Tensor, "d h w"], radius: int) -> Float[Tensor, "d h w"]:
    """Mean over a square window; at the border the nearest pixels repeat."""
    means = torch.empty(values.shape)
    size = (2 * radius + 1, 2 * radius + 1)
    for given, mean in zip(values.contiguous().numpy(), means.numpy(), strict=True):
        cv2.blur(given, size, dst=mean, borderType=cv2.BORDER_REPLICATE)
    return means


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
    scale: Float[Tensor, "1 h w"]
    """One over the deviation of the reference."""


def _window(reference: Float[Tensor, "h w"], radius: int) -> _Window:
    mean = box_mean(reference[None], radius)
    centered = reference - mean
    variance = (box_mean(reference[None] ** 2, radius) - mean**2).clamp_min(0)
    scale = (variance + MIN_DEVIATION**2).rsqrt()
    return _Window(centered=centered, leak=box_mean(centered, radius), scale=scale)


@dataclass(frozen=True, kw_only=True)
class _View:
    """A source and the way from the pixels of the reference to it."""

    lifted: Float32[np.ndarray, "h w"]
    """Outside the sampler gives 0; lifted by one, every value from inside is at least 1."""
    turned: Float[Tensor, "3 h w"]
    moved: tuple[float, ...]

    def warp(self, inverse_depth: Float[Tensor, "d #h #w"]) -> Float[Tensor, "d h w"]:
        """The source as the reference would see it; below OUTSIDE where it does not."""
        shrink = torch.add(self.turned[2], inverse_depth, alpha=self.moved[2]).clamp_min_(MIN_DEPTH).reciprocal_()
        moved = (torch.add(self.turned[axis], inverse_depth, alpha=self.moved[axis]).mul_(shrink) for axis in (0, 1))
        x, y = (rearrange(index, "d h w -> (d h) w") for index in moved)
        warped = torch.empty(shrink.shape)
        cv2.remap(self.lifted, x.numpy(), y.numpy(), cv2.INTER_LINEAR, dst=warped.view(x.shape).numpy())
        return warped.sub_(1)


def _view(
    source: Float[Tensor, "h w"],
    K: Float[Tensor, "3 3"],
    source_from_reference: Float[Tensor, "4 4"],
    rays: Float[Tensor, "3 h w"],
) -> _View:
    to_index = torch.tensor([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    turn = to_index @ K @ source_from_reference[:3, :3]
    moved = to_index @ K @ source_from_reference[:3, 3]
    return _View(
        lifted=(source + 1).numpy(), turned=(turn @ rays.flatten(1)).view_as(rays), moved=tuple(moved.tolist())
    )


def _correlation(window: _Window, warped: Float[Tensor, "d h w"], radius: int) -> Float[Tensor, "d h w"]:
    mean = box_mean(warped, radius)
    product = box_mean(warped * window.centered, radius).addcmul_(mean, window.leak, value=-1)
    spread = box_mean(warped * warped, radius).addcmul_(mean, mean, value=-1).clamp_min_(0)
    return product.mul_(spread.add_(MIN_DEVIATION**2).rsqrt_()).mul_(window.scale)


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
