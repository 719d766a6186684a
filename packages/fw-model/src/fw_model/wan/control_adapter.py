"""The Fun family's own camera input: packed Pluecker maps, added once to the patch embedding.

Axes: b batch, c packed channels (24 = 6 Pluecker x 4 sub-frames), f latent frames, H W pixels, y x latent rows and
columns (8 pixels each), h w tokens, d width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import TOKEN_PIXELS
from fw_model.layers.declarations import KEEP_POWER, Declares, Fill, Layer, keep_power, zeros

_UNSHUFFLE = TOKEN_PIXELS // 2


class ControlAdapter(nn.Module, Declares):
    """Pixel-unshuffle by 8, a 2x2 convolution of stride 2, one residual block; per latent frame.

    Args:
        in_dim: packed channels.
        dim: token width.
        pooled: read the mean of each 8 x 8 block instead of unshuffling it. `unpooled` gives the equal adapter that
            unshuffles.
    """

    def __init__(self, in_dim: int, dim: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.in_dim, self.pooled = in_dim, pooled
        self.conv = nn.Conv2d(in_dim * (1 if pooled else _UNSHUFFLE**2), dim, kernel_size=2, stride=2)
        self.residual_blocks = nn.ModuleList([_ResidualBlock(dim)])

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """Rays are small beside latents of unit power: three times the gain that keeps their power."""
        return {"": KEEP_POWER, "conv": Layer(keep_power(3.0), zeros)}

    def prepare(self, packed: Float[Tensor, "b c f H W"]) -> Float[Tensor, "b p f y x"]:
        """Bring packed maps to the latent grid: 64 c channels, or their block means. It has no weights."""
        x = rearrange(packed, "b c f H W -> (b f) c H W")
        x = F.avg_pool2d(x, _UNSHUFFLE) if self.pooled else F.pixel_unshuffle(x, _UNSHUFFLE)
        return rearrange(x, "(b f) p y x -> b p f y x", b=packed.shape[0])

    def forward(self, prepared: Float[Tensor, "b p f y x"]) -> Float[Tensor, "b d f h w"]:
        """Compute the term added to the patch embedding from the output of `prepare`."""
        x = self.conv(rearrange(prepared, "b p f y x -> (b f) p y x"))
        for block in self.residual_blocks:
            x = block(x)
        return rearrange(x, "(b f) d h w -> b d f h w", b=prepared.shape[0])

    @torch.no_grad()
    def unpooled(self) -> "ControlAdapter":
        """The adapter in the released layout that gives the same: a 64th of each weight for every ray of a block."""
        if not self.pooled:
            return self
        dim = self.conv.out_channels
        other = ControlAdapter(self.in_dim, dim).to(self.conv.weight)
        weight = self.conv.weight.repeat_interleave(_UNSHUFFLE**2, dim=1) / _UNSHUFFLE**2
        other.load_state_dict({**self.state_dict(), "conv.weight": weight})
        return other


class _ResidualBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        return x + self.conv2(F.relu(self.conv1(x)))
