"""The Fun family's own camera input: packed Pluecker maps, added once to the patch embedding.

Axes: b batch, c packed channels (24 = 6 Pluecker x 4 sub-frames), f latent frames, H W pixels, h w tokens, d width.
"""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import TOKEN_PIXELS

_UNSHUFFLE = TOKEN_PIXELS // 2


class ControlAdapter(nn.Module):
    """Pixel-unshuffle by 8, a 2x2 convolution of stride 2, one residual block; per latent frame."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim * _UNSHUFFLE**2, dim, kernel_size=2, stride=2)
        self.residual_blocks = nn.ModuleList([_ResidualBlock(dim)])

    def forward(self, packed: Float[Tensor, "b c f H W"]) -> Float[Tensor, "b d f h w"]:
        """Return what is added to the patch embedding."""
        x = F.pixel_unshuffle(rearrange(packed, "b c f H W -> (b f) c H W"), _UNSHUFFLE)
        x = self.conv(x)
        for block in self.residual_blocks:
            x = block(x)
        return rearrange(x, "(b f) d h w -> b d f h w", b=packed.shape[0])


class _ResidualBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        return x + self.conv2(F.relu(self.conv1(x)))
