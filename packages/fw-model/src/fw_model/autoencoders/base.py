"""Shared by all video autoencoders: the protocol, the shape of the latents, and the first-frame condition.

All of them share one shape: 8 x 8 pixels in space, and in time the first frame alone, then groups of four, so that
``F = 4 (f - 1) + 1`` frames give f latent frames of 16 channels with roughly zero mean and unit variance.

Axes: b batch, F frames, H W pixels, c latent channels, f latent frames, h = H / 8, w = W / 8.
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fw_geometry.clip_shape import check_num_frames, check_side

SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4


@runtime_checkable
class VideoAutoencoder(Protocol):
    """Interface of an autoencoder for the pipeline and the trainer. Implementations are ``torch.nn.Module``s."""

    latent_channels: int

    def encode(self, video: Tensor) -> Tensor:
        """[b, 3, F, H, W] in [-1, 1] to normalized latents [b, c, f, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalized latents [b, c, f, h, w] to video [b, 3, F, H, W], nominally in [-1, 1]; clamp it to show it."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the autoencoder to ``folder`` and return its entry for pipeline.json."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device, as ``torch.nn.Module.to``."""
        ...


def latent_frames(frames: int) -> int:
    """Number of latent frames of a clip of ``frames`` = 4 n + 1 frames."""
    check_num_frames(frames)
    return (frames - 1) // TEMPORAL_FACTOR + 1


def latent_shape(channels: int, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """``(c, f, h, w)`` of the latents of a clip."""
    check_video_shape(frames, height, width)
    return channels, latent_frames(frames), height // SPATIAL_FACTOR, width // SPATIAL_FACTOR


def check_video_shape(frames: int, height: int, width: int) -> None:
    """ValueError unless ``frames`` is 4 n + 1 and both sides are multiples of 8."""
    check_num_frames(frames)
    check_side(height, name="height", multiple=SPATIAL_FACTOR)
    check_side(width, name="width", multiple=SPATIAL_FACTOR)


def first_frame_condition(
    autoencoder: VideoAutoencoder,
    first: Float[Tensor, "b 3 1 H W"],
    frames: int,
    channels: int,
    *,
    last: Float[Tensor, "b 3 1 H W"] | None = None,
) -> Float[Tensor, "b k f h w"] | None:
    """Encode the first frame, and the last if given, to the channels ``y`` that are concatenated to the noise.

    Args:
        autoencoder: of the model's latents.
        first: the image in [-1, 1].
        frames: length of the clip, 4 n + 1.
        channels: ``config.video.y_dim``. 0: None. 16 (Wan2.1-Fun camera control): latent of the image alone, then
            zeros. 20 (Wan image-to-video): 4 mask channels, then the latents of the image followed by gray frames.
            A mask channel represents one of the four frames of a latent frame; in the first latent frame all four
            represent frame 0. It is 1 where the frame is given.
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
        gray = first.new_zeros(*first.shape[:2], frames - (1 if last is None else 2), *first.shape[3:])
        latent = autoencoder.encode(torch.cat([first, gray] if last is None else [first, gray, last], dim=2))
        mask = latent.new_zeros(latent.shape[0], 4, *latent.shape[2:])
        mask[:, :, 0] = 1
        if last is not None:
            mask[:, 3, -1] = 1
        return torch.cat([mask, latent], dim=1)
    raise ValueError(f"A first-frame condition has 0, 16 or 20 channels, the model asks for {channels}.")
