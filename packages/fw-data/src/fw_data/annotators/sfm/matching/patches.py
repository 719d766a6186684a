"""Patches of scene points, found again in other frames below one pixel (inverse compositional Lucas-Kanade).

Baker & Matthews 2004, with the patch's gain and offset removed, coarse to fine.
Image positions are (x, y) in pixels with pixel centers at + 0.5.
Axis legend: f frames, h height, w width, p points, o observations, s patch samples.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

PATCH_RADIUS = 6
ITERATIONS = 6
LEVELS = (0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class PatchLevel:
    """Templates of all points at one image scale."""

    scale: float
    image: Float[Tensor, "f h w"]
    values: Float[Tensor, "p s"]
    """Without mean and of unit norm."""
    solver: Float[Tensor, "p 2 s"]
    """From a difference of patches to the shift that explains it, in template pixels."""


def build_levels(
    image: Float[Tensor, "f h w"], frame: Int64[Tensor, " p"], xy: Float[Tensor, "p 2"]
) -> list[PatchLevel]:
    """Templates around `xy` of each point's frame, coarse level first."""
    levels = []
    for scale in LEVELS:
        scaled = image if scale == 1.0 else F.avg_pool2d(image[:, None], round(1 / scale))[:, 0]
        values = _normalized(sample_patches(scaled, frame, xy * scale))
        gradient = patch_gradients(values)
        hessian = torch.einsum("psi,psj->pij", gradient, gradient) + 1e-6 * torch.eye(2)
        solver = torch.einsum("pij,psj->pis", torch.linalg.inv(hessian), gradient)
        levels.append(PatchLevel(scale=scale, image=scaled, values=values, solver=solver))
    return levels


def align_to_frame(
    levels: list[PatchLevel],
    frame: int,
    points: Int64[Tensor, " o"],
    start: Float[Tensor, "o 2"],
    warp: Float[Tensor, "o 2 2"],
) -> tuple[Float[Tensor, "o 2"], Float[Tensor, " o"]]:
    """Positions of the templates of `points` in one frame, from `start`, and their correlation.

    `warp` maps offsets in the template's frame to offsets in this frame.
    """
    position = start
    correlation = torch.zeros(len(points))
    for level in levels:
        template, solver = level.values[points], level.solver[points]
        image = level.image[frame]
        place = position * level.scale
        for _ in range(ITERATIONS):
            patch = _normalized(_sample(image, place, warp))
            step = torch.bmm(solver, (patch - template)[..., None])[..., 0].clamp_(-1.5, 1.5)
            place = place - torch.einsum("oij,oj->oi", warp, step)
        correlation = (_normalized(_sample(image, place, warp)) * template).sum(dim=1)
        position = place / level.scale
    return position, correlation


def sample_patches(
    image: Float[Tensor, "f h w"], frame: Int64[Tensor, " o"], xy: Float[Tensor, "o 2"]
) -> Float[Tensor, "o s"]:
    """Unwarped patches around positions of different frames."""
    patches = torch.empty(len(xy), (2 * PATCH_RADIUS + 1) ** 2)
    for index in frame.unique().tolist():
        rows = torch.nonzero(frame == index)[:, 0]
        patches[rows] = _sample(image[index], xy[rows], torch.eye(2).expand(len(rows), 2, 2))
    return patches


def patch_gradients(patch: Float[Tensor, "o s"]) -> Float[Tensor, "o s 2"]:
    """Derivatives of each patch along x and y."""
    side = 2 * PATCH_RADIUS + 1
    square = patch.reshape(-1, side, side)
    dx, dy = torch.zeros_like(square), torch.zeros_like(square)
    dx[:, :, 1:-1] = (square[:, :, 2:] - square[:, :, :-2]) / 2
    dy[:, 1:-1] = (square[:, 2:] - square[:, :-2]) / 2
    return torch.stack([dx, dy], dim=-1).reshape(len(patch), side * side, 2)


def weaker_texture(patch: Float[Tensor, "o s"]) -> Float[Tensor, " o"]:
    """Mean squared gradient of each patch along the direction that has least of it."""
    gradient = patch_gradients(patch)
    tensor = torch.einsum("osi,osj->oij", gradient, gradient) / gradient.shape[1]
    a, b, c = tensor[:, 0, 0], tensor[:, 0, 1], tensor[:, 1, 1]
    return (a + c) / 2 - torch.sqrt(((a - c) / 2) ** 2 + b**2)


def _sample(image: Tensor, xy: Tensor, warp: Tensor) -> Tensor:
    offsets = _offsets()
    x, y = (torch.addmm(xy[:, axis, None] - 0.5, warp[:, axis], offsets) for axis in (0, 1))
    patches = torch.empty(x.shape)
    if len(patches) == 0:  # a frame that sees no point; OpenCV takes no empty array
        return patches
    cv2.remap(image.numpy(), x.numpy(), y.numpy(), cv2.INTER_LINEAR, patches.numpy(), cv2.BORDER_REPLICATE)
    return patches


@cache
def _offsets() -> Float[Tensor, "2 s"]:
    axis = torch.arange(-PATCH_RADIUS, PATCH_RADIUS + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()])


def _normalized(patch: Tensor) -> Tensor:
    centered = patch - patch.mean(dim=1, keepdim=True)
    return centered.div_(centered.norm(dim=1, keepdim=True).clamp_min(1e-4))
