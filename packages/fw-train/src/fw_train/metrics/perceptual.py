"""LPIPS (Zhang et al. 2018) with the AlexNet trunk, version 0.1, from a local safetensors file.

Axis legend: F frames, H W pixels, c channels.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fw_train.config.schema import ConfigError

LPIPS_PIXELS = 35
"""Smallest image side: one pixel remains after both poolings."""


class _Layer(NamedTuple):
    """A convolution of the trunk, followed by ReLU; its output is compared."""

    name: str
    """Name in the published state dict."""
    channels: tuple[int, int]
    """Input and output channels."""
    kernel: int
    stride: int
    padding: int
    pooled: bool
    """Whether 3 x 3 max pooling with stride 2 precedes the convolution."""


_TRUNK = (
    _Layer("net.slice1.0", (3, 64), 11, 4, 2, pooled=False),
    _Layer("net.slice2.3", (64, 192), 5, 1, 2, pooled=True),
    _Layer("net.slice3.6", (192, 384), 3, 1, 1, pooled=True),
    _Layer("net.slice4.8", (384, 256), 3, 1, 1, pooled=False),
    _Layer("net.slice5.10", (256, 256), 3, 1, 1, pooled=False),
)
_IGNORED = ("lins.", "scaling_layer.")
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips:
    """Perceptual distance between images; 0 for identical ones.

    Args:
        weights: safetensors with the state dict of `lpips.LPIPS(net="alex")`.

    Raises:
        ConfigError: the file is missing, not safetensors, or has other names or shapes.
    """

    def __init__(self, weights: Path) -> None:
        if not weights.is_file():
            raise ConfigError(f"--lpips-weights {weights} does not exist")
        try:
            state = load_file(weights)
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"--lpips-weights {weights} is not a safetensors file ({error}); docs/evaluate-a-model.md shows how to "
                "convert it"
            ) from None
        self._state = {name: value.float() for name, value in state.items() if not name.startswith(_IGNORED)}
        wanted = _wanted_shapes()
        wrong = sorted(
            name
            for name in wanted.keys() | self._state.keys()
            if name not in self._state or wanted.get(name) != tuple(self._state[name].shape)
        )
        if wrong:
            raise ConfigError(
                f"--lpips-weights {weights} is not the AlexNet LPIPS network: {len(wrong)} names or shapes "
                f"differ, first {wrong[0]}"
            )

    def __call__(
        self, pred: UInt8[np.ndarray, "F H W 3"], truth: UInt8[np.ndarray, "F H W 3"]
    ) -> Float[np.ndarray, "F"]:
        """LPIPS of every frame. ValueError if the images are too small for the network."""
        if min(pred.shape[1:3]) < LPIPS_PIXELS:
            raise ValueError(f"LPIPS needs images of at least {LPIPS_PIXELS} pixels a side, got {pred.shape[1:3]}")
        return np.array([self._distance(p, t) for p, t in zip(pred, truth, strict=True)])

    @torch.no_grad()
    def _distance(self, pred: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> float:
        images = torch.from_numpy(np.stack([pred, truth])).float() / 127.5 - 1
        x = scaled(rearrange(images, "n h w c -> n c h w"))
        total = 0.0
        for index, layer in enumerate(_TRUNK):
            if layer.pooled:
                x = nn.functional.max_pool2d(x, 3, stride=2)
            weight, bias = self._state[f"{layer.name}.weight"], self._state[f"{layer.name}.bias"]
            x = nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding).relu()
            unit = unit_features(x)
            difference = (unit[:1] - unit[1:]) ** 2
            total += float(nn.functional.conv2d(difference, self._state[f"lin{index}.model.1.weight"]).mean())
        return total


def scaled(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Images in [-1, 1] in the range that the trunk was trained on."""
    return (images - torch.tensor(_SHIFT).reshape(1, 3, 1, 1)) / torch.tensor(_SCALE).reshape(1, 3, 1, 1)


def unit_features(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Features of every pixel scaled to length 1."""
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _wanted_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, layer in enumerate(_TRUNK):
        inside, outside = layer.channels
        shapes[f"{layer.name}.weight"] = (outside, inside, layer.kernel, layer.kernel)
        shapes[f"{layer.name}.bias"] = (outside,)
        shapes[f"lin{index}.model.1.weight"] = (1, outside, 1, 1)
    return shapes
