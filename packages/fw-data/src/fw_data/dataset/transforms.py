"""A window of a clip at the size that training wants: resize to cover, crop the middle, and the cameras follow.

Pixel (column i, row j) has its center at (i + 0.5, j + 0.5), so resizing multiplies K and cropping moves its principal
point, exactly. Axis legend: F frames, h w stored pixels, H W pixels wanted.
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from fw_geometry.camera import Trajectory
from fw_geometry.clip_shape import cover


def fit_window(
    video: UInt8[np.ndarray, "F h w 3"],
    depth: Float[np.ndarray, "F h w"],
    confidence: Float[np.ndarray, "F h w"],
    cameras: Trajectory,
    height: int,
    width: int,
) -> tuple[Float[Tensor, "F 3 H W"], Float[Tensor, "F H W"], Float[Tensor, "F H W"], Trajectory]:
    """Resize to cover height x width, crop the middle; colors smoothly and in [-1, 1], labels by nearest pixel.

    The cameras follow: K is that of the returned pixels.
    """
    depth_fit, confidence_fit, cameras_fit = fit_labels(depth, confidence, cameras, height, width)
    return fit_video(video, height, width), depth_fit, confidence_fit, cameras_fit


def fit_video(video: UInt8[np.ndarray, "F h w 3"], height: int, width: int) -> Float[Tensor, "F 3 H W"]:
    """The colors of `fit_window`, in [-1, 1]."""
    color = rearrange(torch.from_numpy(video).float() / 127.5 - 1, "F h w c -> F c h w")
    wide, tall, left, top = cover(video.shape[2], video.shape[1], width, height)
    if (tall, wide) != video.shape[1:3]:
        color = functional.interpolate(color, (tall, wide), mode="bilinear", antialias=True).clamp(-1, 1)
    return color[..., top : top + height, left : left + width].contiguous()


def fit_labels(
    depth: Float[np.ndarray, "F h w"],
    confidence: Float[np.ndarray, "F h w"],
    cameras: Trajectory,
    height: int,
    width: int,
) -> tuple[Float[Tensor, "F H W"], Float[Tensor, "F H W"], Trajectory]:
    """Depth, confidence and cameras of `fit_window`."""
    wide, tall, left, top = cover(depth.shape[2], depth.shape[1], width, height)
    labels = _nearest(torch.stack([torch.from_numpy(depth), torch.from_numpy(confidence)], dim=1), height, width)
    return labels[:, 0], labels[:, 1], cameras.resized(wide, tall).cropped(left, top, width, height)


def fit_mask(mask: Bool[np.ndarray, "F h w"], height: int, width: int) -> Bool[Tensor, "F H W"]:
    """A mask, pixel for pixel like the labels of `fit_window`."""
    return _nearest(torch.from_numpy(mask)[:, None], height, width)[:, 0] > 0


def _nearest(labels: Tensor, height: int, width: int) -> Float[Tensor, "F c H W"]:
    wide, tall, left, top = cover(labels.shape[3], labels.shape[2], width, height)
    labels = labels.float()
    if (tall, wide) != labels.shape[2:]:
        labels = functional.interpolate(labels, (tall, wide), mode="nearest-exact")
    return labels[..., top : top + height, left : left + width].contiguous()
