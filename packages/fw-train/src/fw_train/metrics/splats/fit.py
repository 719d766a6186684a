"""Fit Gaussians to a generated world and measure the frames that were held out.

A world whose frames belong to one static scene can be rendered from any of its cameras. The middle frame of every eight
is held out (the ends of the path stay, so that no camera extrapolates); the others are fitted with L1 and D-SSIM as in
3D Gaussian splatting. The number of Gaussians is fixed: none are split or removed.
Axis legend: F frames, H W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fw_core.images import psnr
from fw_model.pipeline.result import World
from fw_train.metrics.images import ssim
from fw_train.metrics.splats.gaussians import Gaussians, at_random, from_geometry
from fw_train.metrics.splats.rasterize import render

EVERY, HELD_OUT = 8, 4
"""Frame HELD_OUT of every EVERY frames is held out."""
_DSSIM = 0.2
_RATES = (2e-3, 5e-3, 1e-3, 5e-2, 1e-2)
"""Learning rates of centers (times the median depth), log scales, quaternions, opacity logits and colors."""
_LAST_RATE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatFit:
    """A fitted world."""

    gaussians: Gaussians
    """The result."""
    psnr: float
    """PSNR of the held-out frames, dB."""
    ssim: float
    """SSIM of the held-out frames."""
    fitted_psnr: float
    """PSNR of the fitted frames, dB."""
    held_out: list[int]
    """Numbers of the held-out frames."""


def held_out_frames(frames: int) -> list[int]:
    """The frames that are not fitted.

    Raises:
        ValueError: the world is too short to hold out a frame between two others.
    """
    if frames < HELD_OUT + 2:
        raise ValueError(f"splats need at least {HELD_OUT + 2} frames to hold one out, got {frames}")
    return list(range(HELD_OUT, frames - 1, EVERY))


def fit_splats(
    world: World, *, geometry: bool, count: int = 6000, steps: int = 400, device: str | torch.device = "cpu"
) -> SplatFit:
    """Fit Gaussians to the frames of a world, seen by its recovered cameras.

    Args:
        world: the frames, cameras and depth.
        geometry: start from the world's depth; otherwise at random positions in its views.
        count: number of Gaussians.
        steps: optimizer steps, each on one frame in a fixed random order.
        device: where to compute.

    Raises:
        ValueError: the world is too short, or too small for SSIM.
    """
    device = torch.device(device)
    test = held_out_frames(len(world.video))
    train = [frame for frame in range(len(world.video)) if frame not in test]
    start = (from_geometry if geometry else at_random)(world, train, count, device=device)
    parameters = [tensor.requires_grad_() for tensor in start.tensors()]
    gaussians = Gaussians(
        centers=parameters[0],
        log_scales=parameters[1],
        quaternions=parameters[2],
        opacity_logits=parameters[3],
        colors=parameters[4],
    )
    unit = float(np.median(world.depth))
    rates = [_RATES[0] * unit, *_RATES[1:]]
    optimizer = torch.optim.Adam(
        [{"params": [tensor], "lr": rate} for tensor, rate in zip(parameters, rates, strict=True)], eps=1e-15
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, _LAST_RATE ** (1 / max(1, steps)))
    video = torch.from_numpy(world.video).to(device).float() / 255
    background = video[train].mean(dim=(0, 1, 2))
    views = _Views(world, device)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(train) for _ in range(max(1, -(-steps // len(train))))])[:steps]
    for frame in order.tolist():
        image = views.render(gaussians, frame, background)
        loss = (1 - _DSSIM) * (image - video[frame]).abs().mean() + _DSSIM * (1 - _similarity(image, video[frame]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        made = torch.stack([views.render(gaussians, frame, background) for frame in (*test, *train)])
    frames = (255 * made.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
    seen, fitted = frames[: len(test)], frames[len(test) :]
    return SplatFit(
        gaussians=gaussians,
        psnr=float(psnr(seen, world.video[test]).mean()),
        ssim=float(ssim(seen, world.video[test]).mean()),
        fitted_psnr=float(psnr(fitted, world.video[train]).mean()),
        held_out=test,
    )


class _Views:
    """The recovered cameras of a world as tensors."""

    def __init__(self, world: World, device: torch.device) -> None:
        self.K = torch.from_numpy(world.trajectory.K).float().to(device)
        self.pose = torch.from_numpy(world.trajectory.pose_c2w).float().to(device)
        self.height, self.width = world.video.shape[1:3]

    def render(self, gaussians: Gaussians, frame: int, background: Tensor) -> Float[Tensor, "H W 3"]:
        """The view of one frame."""
        return render(gaussians, self.K[frame], self.pose[frame], self.height, self.width, background)


def _similarity(a: Float[Tensor, "H W 3"], b: Float[Tensor, "H W 3"]) -> Tensor:
    """Differentiable SSIM with a box of 7 x 7 pixels, mean over the image."""
    x, y = (rearrange(image, "h w c -> 1 c h w") for image in (a, b))

    def mean(image: Tensor) -> Tensor:
        return functional.avg_pool2d(image, 7, stride=1)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()
