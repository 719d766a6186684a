"""Video autoencoders: from pixels in [-1, 1] to normalised latents an eighth of the size, and back.

All of them share one shape: 8 x 8 pixels in space, and in time the first frame alone, then groups of four, so that
``F = 4 (f - 1) + 1`` frames give f latent frames of 16 channels with roughly zero mean and unit variance.
``BlockDCT`` is a fixed transform with no weights; ``BlockVAE`` is a small learned one that starts from it; ``WanVAE``
is the learned one of Wan2.1.

Axes: b batch, F frames, H W pixels, c latent channels, f latent frames, h = H / 8, w = W / 8.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.block_vae import BlockVAE
from fw_model.wan_vae import WanVAE

__all__ = [
    "BlockDCT",
    "BlockVAE",
    "VideoAutoencoder",
    "WanVAE",
    "autoencoder_from_spec",
    "check_video_shape",
    "first_frame_condition",
    "latent_frames",
    "latent_shape",
]

SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4


@runtime_checkable
class VideoAutoencoder(Protocol):
    """What the pipeline and the trainer need of an autoencoder. Implementations are ``torch.nn.Module``s."""

    latent_channels: int

    def encode(self, video: Tensor) -> Tensor:
        """[b, 3, F, H, W] in [-1, 1] to normalised latents [b, c, f, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [b, c, f, h, w] to video [b, 3, F, H, W], nominally in [-1, 1]; clamp it to show it."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what is needed into ``folder``; the result, put into pipeline.json, brings it back."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device, as ``torch.nn.Module.to``."""
        ...


def latent_frames(frames: int) -> int:
    """Latent frames of a clip of ``frames`` = 4 n + 1 frames."""
    if frames < 1 or frames % TEMPORAL_FACTOR != 1:
        near = max(1, TEMPORAL_FACTOR * round((frames - 1) / TEMPORAL_FACTOR) + 1)
        raise ValueError(f"A clip must have 4 n + 1 frames (1, 5, 9, ... 81), got {frames}; use {near} for example.")
    return (frames - 1) // TEMPORAL_FACTOR + 1


def latent_shape(channels: int, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """``(c, f, h, w)`` of the latents of a clip."""
    check_video_shape(frames, height, width)
    return channels, latent_frames(frames), height // SPATIAL_FACTOR, width // SPATIAL_FACTOR


def check_video_shape(frames: int, height: int, width: int) -> None:
    """ValueError unless ``frames`` is 4 n + 1 and both sides are multiples of 8."""
    latent_frames(frames)
    for name, size in (("height", height), ("width", width)):
        if size < SPATIAL_FACTOR or size % SPATIAL_FACTOR:
            raise ValueError(f"The autoencoder needs a {name} divisible by {SPATIAL_FACTOR}, got {size} pixels.")


def first_frame_condition(
    autoencoder: VideoAutoencoder,
    first: Float[Tensor, "b 3 1 H W"],
    frames: int,
    channels: int,
    *,
    last: Float[Tensor, "b 3 1 H W"] | None = None,
) -> Float[Tensor, "b k f h w"] | None:
    """The channels ``y`` that stand beside the noise and show the model the first frame, and the last if it is given.

    Args:
        autoencoder: of the model's latents.
        first: the picture in [-1, 1].
        frames: length of the clip, 4 n + 1.
        channels: ``config.video.y_dim``. 0: None. 16 (Wan2.1-Fun camera control): latent of the picture alone, then
            zeros. 20 (Wan image-to-video): 4 mask channels, then the latents of the picture followed by grey frames.
            A mask channel stands for one of the four frames of a latent frame, the first frame for all four of its
            own; it is 1 where the frame is given.
        last: the clip's last frame in [-1, 1]; only with 20 channels.

    Raises:
        ValueError: another number of channels, a last frame that the model cannot be shown, or a shape that the
            autoencoder can't take.
    """
    if last is not None and (channels != autoencoder.latent_channels + 4 or frames == 1):
        raise ValueError(
            f"A last frame needs a model with mask channels (20 condition channels, this one has {channels}) and a "
            f"clip of more than one frame (this one has {frames}); leave it out."
        )
    if channels == 0:
        return None
    later = latent_frames(frames) - 1
    if channels == autoencoder.latent_channels:
        latent = autoencoder.encode(first)
        return torch.cat([latent, latent.new_zeros(*latent.shape[:2], later, *latent.shape[3:])], dim=2)
    if channels == autoencoder.latent_channels + 4:
        grey = first.new_zeros(*first.shape[:2], frames - (1 if last is None else 2), *first.shape[3:])
        latent = autoencoder.encode(torch.cat([first, grey] if last is None else [first, grey, last], dim=2))
        mask = latent.new_zeros(latent.shape[0], 4, *latent.shape[2:])
        mask[:, :, 0] = 1
        if last is not None:
            mask[:, 3, -1] = 1
        return torch.cat([mask, latent], dim=1)
    raise ValueError(f"A first-frame condition has 0, 16 or 20 channels, the model asks for {channels}.")


def autoencoder_from_spec(spec: Mapping[str, Any], folder: Path) -> VideoAutoencoder:
    """The autoencoder that ``save`` described: ``kind`` is ``block_dct``, ``block_vae`` or ``wan_vae``."""
    kind = spec.get("kind")
    if kind == "block_dct":
        return BlockDCT()
    if kind == "block_vae":
        return BlockVAE.from_pretrained(folder / spec.get("folder", "vae"))
    if kind == "wan_vae":
        return WanVAE.from_pretrained(folder / spec.get("folder", "vae"))
    raise ValueError(
        f"Unknown autoencoder kind {kind!r} in pipeline.json; known are 'block_dct', 'block_vae' and 'wan_vae'."
    )


class BlockDCT(nn.Module):
    """A fixed orthonormal transform at the latent size of the Wan VAE: a 3D block DCT that keeps 16 coefficients.

    A block is 8 x 8 pixels of the first frame, or of four later ones, in three decorrelated colours (a DCT over
    red, green, blue: brightness, red minus blue, green minus purple). Its cosine coefficients are orthonormal, so the
    decoder is the exact adjoint, ``encode(decode(z)) == z``, and what is lost is the energy of the other coefficients.
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
        parts = [_analyse(video[:, :, :1], self.first, self.first_scale)]
        if video.shape[2] > 1:
            parts.append(_analyse(video[:, :, 1:], self.rest, self.rest_scale))
        return torch.cat(parts, dim=2)

    def decode(self, latents: Float[Tensor, "b 16 f h w"]) -> Float[Tensor, "b 3 F H W"]:
        """Latents to video, float32, not clamped."""
        latents = latents.float()
        parts = [_synthesise(latents[:, :, :1], self.first, self.first_scale)]
        if latents.shape[2] > 1:
            parts.append(_synthesise(latents[:, :, 1:], self.rest, self.rest_scale))
        return torch.cat(parts, dim=2)

    def save(self, folder: Path) -> dict[str, Any]:  # noqa: ARG002  (the protocol's argument)
        """Nothing to write: the transform is fixed."""
        return {"kind": "block_dct"}


# (colour, time, row, column, standard deviation) of the kept cosines, the ones both share first: the 16 of highest
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


def _cosines(colour: int, time: int, row: int, column: int, frames: int) -> Float[Tensor, "n"]:
    """One orthonormal basis function of a block, flattened as (colour, time, row, column)."""
    axes = [_cosine(colour, 3), _cosine(time, frames), _cosine(row, SPATIAL_FACTOR), _cosine(column, SPATIAL_FACTOR)]
    return torch.einsum("c,t,y,x->ctyx", *axes).flatten()


def _cosine(k: int, n: int) -> Float[Tensor, "n"]:
    """Basis vector k of the orthonormal DCT-II of length n."""
    wave = torch.cos(math.pi * k * (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    return wave * math.sqrt((1 if k == 0 else 2) / n)


def _analyse(video: Tensor, basis: Tensor, scale: Tensor) -> Tensor:
    frames = basis.shape[1] // (3 * SPATIAL_FACTOR**2)
    blocks = rearrange(
        video, "b c (f t) (h p) (w q) -> b f h w (c t p q)", t=frames, p=SPATIAL_FACTOR, q=SPATIAL_FACTOR
    )
    return rearrange(blocks @ basis.T / scale, "b f h w k -> b k f h w")


def _synthesise(latents: Tensor, basis: Tensor, scale: Tensor) -> Tensor:
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
