"""A fixed block transform in place of a learned autoencoder: no weights, no files, exactly invertible on its latents.

Axes: b batch, F frames, H W pixels, f latent frames, h = H / 8, w = W / 8.
"""

import math
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.autoencoders.base import SPATIAL_FACTOR, TEMPORAL_FACTOR, check_video_shape


class BlockDCT(nn.Module):
    """A fixed orthonormal transform at the latent size of the Wan VAE: a 3D block DCT that keeps 16 coefficients.

    A block is 8 x 8 pixels of the first frame, or of four later ones, in three decorrelated colors (a DCT over
    red, green, blue: brightness, red minus blue, green minus purple). Its cosine coefficients are orthonormal, so the
    decoder is the exact adjoint, ``encode(decode(z)) == z``, and only the energy of the other coefficients is lost.
    The 16 kept ones are those with the most energy in natural video; each is scaled by a fixed constant to about unit
    variance. Channel k means the same in the first and in later latent frames as far as both keep it.
    """

    latent_channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor
        self.rest: Tensor
        self.first_scale: Tensor
        self.rest_scale: Tensor
        for name, table, frames in (("first", FIRST_FRAME, 1), ("rest", FOUR_FRAMES, TEMPORAL_FACTOR)):
            basis = torch.stack([_cosines(*row[:4], frames) for row in table])
            self.register_buffer(name, basis.float(), persistent=False)
            scale = torch.tensor([row[4] for row in table], dtype=torch.float32)
            self.register_buffer(f"{name}_scale", scale, persistent=False)

    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b 16 f h w"]:
        """Video in [-1, 1] to latents, float32. ValueError for frames not 4 n + 1 or sides not multiples of 8."""
        check_video_shape(*video.shape[2:])
        video = video.float()
        parts = [_analyze(video[:, :, :1], self.first, self.first_scale)]
        if video.shape[2] > 1:
            parts.append(_analyze(video[:, :, 1:], self.rest, self.rest_scale))
        return torch.cat(parts, dim=2)

    def decode(self, latents: Float[Tensor, "b 16 f h w"]) -> Float[Tensor, "b 3 F H W"]:
        """Latents to video, float32, not clamped."""
        latents = latents.float()
        parts = [_synthesize(latents[:, :, :1], self.first, self.first_scale)]
        if latents.shape[2] > 1:
            parts.append(_synthesize(latents[:, :, 1:], self.rest, self.rest_scale))
        return torch.cat(parts, dim=2)

    def save(self, folder: Path) -> dict[str, Any]:  # noqa: ARG002  (the protocol's argument)
        """Nothing to write: the transform is fixed."""
        return {"kind": "block_dct"}


# (color, time, row, column, standard deviation) of the kept cosines, the ones both share first: the 16 of highest
# energy in half-and-half real and synthetic clips, 64 x 96 to 192 x 320 pixels, and their root mean squares there.
FIRST_FRAME = (
    (0, 0, 0, 0, 7.391),
    (1, 0, 0, 0, 1.869),
    (0, 0, 1, 0, 1.528),
    (0, 0, 0, 1, 1.244),
    (2, 0, 0, 0, 0.9592),
    (0, 0, 2, 0, 0.8319),
    (0, 0, 0, 2, 0.7293),
    (0, 0, 1, 1, 0.6971),
    (0, 0, 3, 0, 0.5865),
    (0, 0, 0, 3, 0.4993),
    (0, 0, 2, 1, 0.4897),
    (0, 0, 1, 2, 0.4425),
    (0, 0, 4, 0, 0.4192),
    (0, 0, 0, 4, 0.3883),
    (0, 0, 3, 1, 0.3578),
    (0, 0, 5, 0, 0.3436),
)


FOUR_FRAMES = (
    (0, 0, 0, 0, 14.81),
    (1, 0, 0, 0, 3.773),
    (0, 0, 1, 0, 2.846),
    (0, 0, 0, 1, 2.266),
    (2, 0, 0, 0, 1.894),
    (0, 0, 2, 0, 1.468),
    (0, 0, 0, 2, 1.203),
    (0, 0, 1, 1, 1.202),
    (0, 0, 3, 0, 0.9667),
    (0, 0, 0, 3, 0.7181),
    (0, 0, 2, 1, 0.8114),
    (0, 0, 1, 2, 0.6993),
    (0, 1, 0, 0, 1.408),
    (0, 1, 0, 1, 0.8767),
    (0, 1, 1, 0, 0.8487),
    (0, 1, 2, 0, 0.6635),
)


def _cosines(color: int, time: int, row: int, column: int, frames: int) -> Float[Tensor, "n"]:
    """One orthonormal basis function of a block, flattened as (color, time, row, column)."""
    axes = [_cosine(color, 3), _cosine(time, frames), _cosine(row, SPATIAL_FACTOR), _cosine(column, SPATIAL_FACTOR)]
    return torch.einsum("c,t,y,x->ctyx", *axes).flatten()


def _cosine(k: int, n: int) -> Float[Tensor, "n"]:
    """Basis vector k of the orthonormal DCT-II of length n."""
    wave = torch.cos(math.pi * k * (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    return wave * math.sqrt((1 if k == 0 else 2) / n)


def _analyze(video: Tensor, basis: Tensor, scale: Tensor) -> Tensor:
    frames = basis.shape[1] // (3 * SPATIAL_FACTOR**2)
    blocks = rearrange(
        video, "b c (f t) (h p) (w q) -> b f h w (c t p q)", t=frames, p=SPATIAL_FACTOR, q=SPATIAL_FACTOR
    )
    return rearrange(blocks @ basis.T / scale, "b f h w k -> b k f h w")


def _synthesize(latents: Tensor, basis: Tensor, scale: Tensor) -> Tensor:
    frames = basis.shape[1] // (3 * SPATIAL_FACTOR**2)
    blocks = rearrange(latents, "b k f h w -> b f h w k") * scale @ basis
    return rearrange(
        blocks,
        "b f h w (c t p q) -> b c (f t) (h p) (w q)",
        c=3,
        t=frames,
        p=SPATIAL_FACTOR,
        q=SPATIAL_FACTOR,
    )
