"""A differentiable rasterizer of Gaussians in plain PyTorch, by tiles; gsplat on CUDA devices where it is installed.

The image is cut into tiles. Each tile evaluates the Gaussians whose 3-sigma box reaches it, front to back. The math is
that of 3D Gaussian splatting (Kerbl et al. 2023, section 4; EWA projection of Zwicker et al. 2001).
Axis legend: n Gaussians, t tiles, p pixels of a tile, H W pixels.
"""

import math
from importlib import import_module
from importlib.util import find_spec

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from fw_train.metrics.splats.gaussians import Gaussians

TILE = 12
"""Side of a tile in pixels."""
_NEAR = 0.01
_LOW_PASS = 0.3
"""Variance in pixels that is added to every projected Gaussian, so that none is smaller than a pixel."""
_LOG_LARGEST_ALPHA = math.log(0.99)
_SMALLEST_ALPHA = 1 / 255
_LOG_SMALLEST_PASSED = math.log(1e-4)
_CHUNK = 256
"""Gaussians of a tile that are evaluated at once; the next ones only if they can be seen."""


def render(
    gaussians: Gaussians,
    K: Float[Tensor, "3 3"],
    pose_c2w: Float[Tensor, "4 4"],
    height: int,
    width: int,
    background: Float[Tensor, "3"],
) -> Float[Tensor, "H W 3"]:
    """Render an image, RGB 0 to 1, with gradients to all parameters.

    Args:
        gaussians: what to render.
        K: intrinsics in pixels; pixel centers are at +0.5.
        pose_c2w: the camera, OpenCV axes.
        height: rows of the image.
        width: columns of the image.
        background: color behind all Gaussians.
    """
    if gaussians.centers.is_cuda and find_spec("gsplat") is not None:
        return _gsplat(gaussians, K, pose_c2w, height, width, background)
    return render_plain(gaussians, K, pose_c2w, height, width, background)


def render_plain(
    gaussians: Gaussians,
    K: Float[Tensor, "3 3"],
    pose_c2w: Float[Tensor, "4 4"],
    height: int,
    width: int,
    background: Float[Tensor, "3"],
) -> Float[Tensor, "H W 3"]:
    """`render` without gsplat, on any device."""
    to_camera = torch.linalg.inv(pose_c2w)
    seen = gaussians.centers @ to_camera[:3, :3].T + to_camera[:3, 3]
    order = torch.argsort(seen[:, 2].detach())
    order = order[seen[order, 2] > _NEAR]
    seen = seen[order]
    middle = (seen @ K.T)[:, :2] / seen[:, 2:]
    covariance = _projected(gaussians, order, seen, K, to_camera)
    a, b, c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    determinant = (a * c - b * b).clamp_min(1e-12)
    conic = torch.stack([c, -b, a], dim=-1) / determinant[:, None]
    with torch.no_grad():
        largest = (a + c) / 2 + (((a - c) / 2) ** 2 + b * b).sqrt()
        reach = _tiles_reached(middle, 3 * largest.sqrt(), height, width)
    tile, chosen = torch.where(reach)  # by tile, then by depth: all tiles are gathered at once
    corners = _tile_corners(height, width, middle)
    log_opacity = functional.logsigmoid(gaussians.opacity_logits[order])
    density = _log_density(conic[chosen], middle[chosen] - corners[tile])
    opacity = log_opacity[chosen].clamp_max(_LOG_LARGEST_ALPHA)
    counts = torch.bincount(tile, minlength=len(corners)).tolist()
    colors = gaussians.colors[order][chosen]
    pixel = _monomials(middle.dtype, middle.device)
    parts = zip(density.split(counts), opacity.split(counts), colors.split(counts), strict=True)
    tiles = [_composite(pixel, *part, background) for part in parts]
    rows = -(-height // TILE)
    whole = rearrange(torch.stack(tiles), "(r q) (y x) c -> (r y) (q x) c", r=rows, y=TILE)
    return whole[:height, :width]


def _projected(
    gaussians: Gaussians, order: Tensor, seen: Float[Tensor, "n 3"], K: Tensor, to_camera: Tensor
) -> Float[Tensor, "n 2 2"]:
    """Covariances in the image: J W S W^T J^T with the Jacobian J of the projection, plus the low-pass filter."""
    rotation = _matrices(functional.normalize(gaussians.quaternions[order], dim=-1))
    half = to_camera[:3, :3] @ rotation * gaussians.log_scales[order].exp()[:, None]
    x, y, z = seen.unbind(dim=-1)
    zero = torch.zeros_like(z)
    rows = [K[0, 0] / z, zero, -K[0, 0] * x / z**2, zero, K[1, 1] / z, -K[1, 1] * y / z**2]
    jacobian = rearrange(torch.stack(rows, dim=-1), "n (i j) -> n i j", i=2)
    flat = jacobian @ half
    return flat @ flat.mT + _LOW_PASS * torch.eye(2, device=z.device)


def _matrices(q: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    w, x, y, z = q.unbind(dim=-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return rearrange(torch.stack(rows, dim=-1), "n (i j) -> n i j", i=3)


def _tiles_reached(
    middle: Float[Tensor, "n 2"], radius: Float[Tensor, "n"], height: int, width: int
) -> Bool[Tensor, "t n"]:
    """Whether the box around each Gaussian reaches each tile."""
    rows, columns = -(-height // TILE), -(-width // TILE)
    left, top = (TILE * torch.arange(count, device=middle.device) for count in (columns, rows))
    x = (middle[:, 0, None] + radius[:, None] >= left) & (middle[:, 0, None] - radius[:, None] <= left + TILE)
    y = (middle[:, 1, None] + radius[:, None] >= top) & (middle[:, 1, None] - radius[:, None] <= top + TILE)
    return rearrange(y[:, :, None] & x[:, None], "n r q -> (r q) n")


def _composite(
    pixel: Float[Tensor, "p 6"],
    density: Float[Tensor, "n 6"],
    log_opacity: Float[Tensor, "n"],
    colors: Float[Tensor, "n 3"],
    background: Float[Tensor, "3"],
) -> Float[Tensor, "p 3"]:
    """The pixels of a tile, from its Gaussians front to back; ends where nothing behind can be seen."""
    color = torch.zeros_like(pixel[:, :3])
    log_passed = torch.zeros_like(pixel[:, :1])
    chunks = (tensor.split(_CHUNK) for tensor in (density, log_opacity, colors))
    for part, opacity, own in zip(*chunks, strict=True):
        # rounding may put the polynomial of a needle above its maximum, 0
        alpha = ((pixel @ part.T).clamp_max(0) + opacity).exp()
        alpha = torch.where(alpha >= _SMALLEST_ALPHA, alpha, 0.0)
        log_behind = torch.log1p(-alpha)
        after = log_passed + log_behind.cumsum(dim=1)
        color = color + (alpha * (after - log_behind).exp()) @ own
        log_passed = log_passed + log_behind.sum(dim=1, keepdim=True)
        if float(log_passed.detach().max()) < _LOG_SMALLEST_PASSED:
            break
    return color + log_passed.exp() * background


def _tile_corners(height: int, width: int, like: Tensor) -> Float[Tensor, "t 2"]:
    """Corners (x, y) of the tiles, row by row; tiles at the border reach beyond the image."""
    rows, columns = (TILE * torch.arange(-(-side // TILE), device=like.device) for side in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2).to(like.dtype)


def _monomials(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "p 6"]:
    """xx, xy, yy, x, y and 1 at the pixels of a tile, from its corner."""
    side = torch.arange(TILE, dtype=dtype, device=device) + 0.5
    y, x = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
    return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)], dim=-1)


def _log_density(conic: Float[Tensor, "n 3"], middle: Float[Tensor, "n 2"]) -> Float[Tensor, "n 6"]:
    """Coefficients of the logarithm of the density, a quadratic polynomial of the pixel with the maximum 0."""
    xx, xy, yy = conic.unbind(dim=-1)
    x, y = middle.unbind(dim=-1)
    along_x, along_y = xx * x + xy * y, xy * x + yy * y
    constant = -(x * along_x + y * along_y) / 2
    return torch.stack([-xx / 2, -xy, -yy / 2, along_x, along_y, constant], dim=-1)


def _gsplat(
    gaussians: Gaussians, K: Tensor, pose_c2w: Tensor, height: int, width: int, background: Tensor
) -> Float[Tensor, "H W 3"]:
    image, _, _ = import_module("gsplat").rasterization(
        means=gaussians.centers,
        quats=gaussians.quaternions,
        scales=gaussians.log_scales.exp(),
        opacities=torch.sigmoid(gaussians.opacity_logits),
        colors=gaussians.colors,
        viewmats=torch.linalg.inv(pose_c2w)[None],
        Ks=K[None],
        width=width,
        height=height,
        near_plane=_NEAR,
        eps2d=_LOW_PASS,
        backgrounds=background[None],
    )
    return image[0]
