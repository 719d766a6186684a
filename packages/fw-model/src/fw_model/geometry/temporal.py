"""Causal up-sampling of time by four, latent frames to output frames, in one go or chunk by chunk.

Axes: b batch, c channels, t frames, y x rows and columns. f latent frames become 1 + 4 (f - 1): the first passes
unchanged and every other one is doubled twice, as in the Wan autoencoder.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.layers.declarations import KEEP_POWER, Declares, Fill, Layer, ones

_KEEP = 2


class _Past(NamedTuple):
    """The last two inputs of the causal convolutions of one doubling and its residual."""

    double: Tensor
    residual: Tensor


class UpsamplerState(NamedTuple):
    """State of `TemporalUpsampler` between chunks; None before the first chunk."""

    stages: tuple[_Past, ...]


class TemporalUpsampler(nn.Module, Declares):
    """1x1x1 convolution, then twice: double all frames but the first, add a causal 3x3x3 residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(channels, channels, kernel_size=1)
        self.doublings = nn.ModuleList([_Doubling(channels) for _ in range(2)])
        self.residuals = nn.ModuleList([_Residual(channels) for _ in range(2)])

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """The norms of the residuals start at the identity."""
        return {"": KEEP_POWER, "residuals.0.gamma": ones, "residuals.1.gamma": ones}

    def forward(
        self, x: Float[Tensor, "b c t y x"], state: UpsamplerState | None = None
    ) -> tuple[Float[Tensor, "b c T y x"], UpsamplerState]:
        """Up-sample a chunk of latent frames; chunks with the state handed on equal one call on all frames.

        The chunk that starts a clip (`state` None) gives 1 + 4 (t - 1) frames, every later one 4 t.
        """
        x = self.conv_in(x)
        pasts = []
        for i, (double, residual) in enumerate(zip(self.doublings, self.residuals, strict=True)):
            past = None if state is None else state.stages[i]
            x, past_double = double(x, None if past is None else past.double)
            x, past_residual = residual(x, None if past is None else past.residual)
            pasts.append(_Past(past_double, past_residual))
        return x, UpsamplerState(tuple(pasts))


class _Doubling(nn.Module):
    """Each frame to two by a causal convolution; the clip's first frame passes by and is not seen by the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time_conv = nn.Conv3d(channels, 2 * channels, kernel_size=(3, 1, 1))

    def forward(self, x: Float[Tensor, "b c t y x"], past: Tensor | None) -> tuple[Float[Tensor, "b c T y x"], Tensor]:
        head, rest = (x[:, :, :1], x[:, :, 1:]) if past is None else (x[:, :, :0], x)
        seen = _with_past(rest, past)
        if rest.shape[2] == 0:
            return head, seen
        doubled = rearrange(self.time_conv(seen), "b (two c) t y x -> b c (t two) y x", two=2)
        return torch.cat([head, doubled], dim=2), seen[:, :, -_KEEP:]


class _Residual(nn.Module):
    """x + causal 3x3x3 convolution of SiLU(RMS(x)), the norm over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.conv = nn.Conv3d(channels, channels, kernel_size=3, padding=(0, 1, 1))

    def forward(self, x: Float[Tensor, "b c t y x"], past: Tensor | None) -> tuple[Float[Tensor, "b c t y x"], Tensor]:
        normed = F.silu(F.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.gamma)
        seen = _with_past(normed, past)
        return x + self.conv(seen), seen[:, :, -_KEEP:]


def _with_past(x: Tensor, past: Tensor | None) -> Tensor:
    if past is None:
        past = x.new_zeros(*x.shape[:2], _KEEP, *x.shape[3:])
    return torch.cat([past, x], dim=2)
