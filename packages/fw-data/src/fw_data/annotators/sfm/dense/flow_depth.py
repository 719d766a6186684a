"""Depth from optical flow and known cameras, for the pixels where the plane sweep is unsure.

The flow of a network follows whole surfaces, also plain and shiny ones, where small windows match anything.
Poses are world-to-camera. Axis legend: f frames, h height, w width, s sources.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor

from fw_data.annotators.gmflow.sizes import input_size
from fw_data.annotators.gmflow.weights import load_gmflow
from fw_data.annotators.sfm.dense.plane_sweep import pixel_rays
from fw_data.annotators.sfm.workers import map_parallel

UNSURE = 0.16
"""Trust up to which a depth was spread or carried over, not searched."""
MIN_UNSURE = 0.02
"""Share of unsure pixels from which a frame is worth the flow."""
SOURCES = 2
"""Frames that the flow leads to."""
MAX_MISS_PX = 1.5
"""Largest distance of the end of the flow from its epipolar line, at the size of the flow."""
MIN_PARALLAX_PX = 2.0
MAX_SPREAD = 0.05
"""Largest difference of the depths from both sources, relative. Without it, hidden places make the depth worse."""
FLOW_TRUST = 0.15
"""Trust of a depth from flow: that of a well-founded filling."""


def improve_unsure(
    depth: Float[Tensor, "f h w"],
    trust: Float[Tensor, "f h w"],
    color: Float[Tensor, "f 3 h w"],
    K: Float[Tensor, "3 3"],
    pose_w2c: Float[Tensor, "f 4 4"],
    sources: list[list[int]],
    threads: int,
    on_done: Callable[[float], None] = lambda _: None,
) -> tuple[Float[Tensor, "f h w"], Float[Tensor, "f h w"]]:
    """Depth and trust with the unsure pixels taken from flow where it fits the cameras; RGB in [0, 1].

    The flow from a frame to its two best sources gives two depths. Where they agree, their mean by the square of the
    parallax replaces the depth.

    Raises:
        WheelFileMissing: the weights of the network are not in the cache.
    """
    height, width = depth.shape[1:]
    size = input_size(height, width)
    images = F.interpolate(color, size, mode="bilinear", align_corners=False, antialias=True)
    resized = torch.tensor([[size[1] / width], [size[0] / height], [1.0]])

    def improve(frame: int) -> tuple[Tensor, Tensor]:
        unsure = trust[frame] < UNSURE
        chosen = sources[frame][:SOURCES]
        if len(chosen) < SOURCES or float(unsure.float().mean()) < MIN_UNSURE:
            return depth[frame], trust[frame]
        with torch.inference_mode():
            first = repeat(images[frame], "c h w -> s c h w", s=len(chosen))
            flow = load_gmflow()(first, images[chosen])
        poses = pose_w2c[chosen] @ torch.linalg.inv(pose_w2c[frame])
        inverse, weight = inverse_depth_from_flow(flow, K * resized, poses)
        mean = (inverse * weight).sum(dim=0) / weight.sum(dim=0).clamp_min(1e-9)
        agree = (weight > 0).all(dim=0) & (inverse.amax(dim=0) - inverse.amin(dim=0) < MAX_SPREAD * mean)
        mean, agree = (
            F.interpolate(values[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
            for values in (torch.where(agree, mean, 1 / depth.max()), agree.float())
        )
        known = unsure & (agree > 0.99)
        return torch.where(known, 1 / mean, depth[frame]), torch.where(known, FLOW_TRUST, trust[frame])

    done = map_parallel(improve, list(range(len(depth))), threads, on_done)
    return torch.stack([d for d, _ in done]), torch.stack([t for _, t in done])


def inverse_depth_from_flow(
    flow: Float[Tensor, "s 2 h w"], K: Float[Tensor, "3 3"], poses: Float[Tensor, "s 4 4"]
) -> tuple[Float[Tensor, "s h w"], Float[Tensor, "s h w"]]:
    """Inverse depth at which each pixel lands closest to the end of its flow, and its weight.

    `poses` take camera points to the cameras that the flow leads to. The weight is the squared parallax in pixels, 0
    where the flow misses its epipolar line by more than MAX_MISS_PX or shows less parallax than MIN_PARALLAX_PX.
    """
    height, width = flow.shape[2:]
    rays = pixel_rays(height, width, K)
    here = (K @ rays.flatten(1))[:2].reshape(2, height, width)
    end = here + flow
    turned = torch.einsum("sij,jhw->sihw", K @ poses[:, :3, :3], rays)
    moved = (K @ poses[:, :3, 3:])[..., None]
    slope = end * moved[:, 2:] - moved[:, :2]
    offset = turned[:, :2] - end * turned[:, 2:]
    inverse = reduce(slope * offset, "s xy h w -> s h w", "sum") / reduce(
        slope**2, "s xy h w -> s h w", "sum"
    ).clamp_min(1e-12)
    place = turned + moved * inverse[:, None]
    landed = place[:, :2] / place[:, 2:].clamp_min(1e-9)
    infinite = turned[:, :2] / turned[:, 2:].clamp_min(1e-9)
    parallax, miss = (landed - infinite).norm(dim=1), (landed - end).norm(dim=1)
    fits = (inverse > 0) & (place[:, 2] > 0) & (turned[:, 2] > 0) & (miss < MAX_MISS_PX) & (parallax > MIN_PARALLAX_PX)
    return inverse, torch.where(fits, parallax**2, 0.0)
