"""What every video autoencoder has in common: the protocol, the shape of its latents, and the first-frame condition.

All of them share one shape: 8 x 8 pixels in space, and in time the first frame alone, then groups of four, so that
``F = 4 (f - 1) + 1`` frames give f latent frames of 16 channels with roughly zero mean and unit variance.

Axes: b batch, F frames, H W pixels, c latent channels, f latent frames, h = H / 8, w = W / 8.
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

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
