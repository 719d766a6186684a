"""Modules that stay in float32 when the model is cast, and autocast regions.

A depth in bfloat16 has 8 significant bits: a frame shows some hundred distinct values, and its points form layers.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)


class Float32Module(nn.Module):
    """Keeps its weights, and those of its submodules, in float32 through `half`, `bfloat16` and `to(dtype)`."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep(tensor: Tensor) -> Tensor:
            value = fn(tensor)
            return tensor.to(value.device, torch.float32) if value.dtype in _HALF else value

        return super()._apply(keep, recurse)


class ExactModule(nn.Module):
    """Marks modules whose forward pass leaves autocast, also in training; plans need to know them."""


class ExactConv2d(nn.Conv2d, ExactModule):
    """A convolution that leaves autocast; its input has the type of its weights."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in torch)
        """Convolve images [b, c, h, w]."""
        with without_autocast(input):
            return super().forward(input)


def without_autocast(x: Tensor) -> torch.autocast:
    """A region without autocast for tensors like `x`."""
    return torch.autocast(_autocast_device(x), enabled=False)


def float32_region(x: Tensor) -> AbstractContextManager[Any]:
    """The region in which float32 modules run: without autocast, except in training, where the trainer decides."""
    return nullcontext() if trains_under_autocast(x) else without_autocast(x)


def trains_under_autocast(x: Tensor) -> bool:
    """Whether gradients are recorded under autocast; also on the meta device, on which plans emulate autocast."""
    return torch.is_grad_enabled() and (x.is_meta or torch.is_autocast_enabled(_autocast_device(x)))


def _autocast_device(x: Tensor) -> str:
    return "cpu" if x.is_meta else x.device.type  # there is no autocast on the meta device
