"""The cost of the frozen encoders of the Wan presets for one window of one clip without cached latents."""

from dataclasses import dataclass

from fw_model.config import WorldConfig

_TEXT_LAYERS, _TEXT_WIDTH, _TEXT_INNER, _TEXT_HIDDEN = 24, 4096, 4096, 10240
_CLIP_LAYERS, _CLIP_WIDTH, _CLIP_HIDDEN, _CLIP_PATCH = 31, 1280, 5120, 14 * 14 * 3
VAE_BYTES = 4 * 126_892_531
"""Weights of Wan's video autoencoder, encoder and decoder, in float32."""
_VAE_CLIP, _VAE_FRAME, _VAE_SQUARE, _VAE_PARAMETERS = 161_312, 4_995_945, 0.375, 53_596_928
"""FLOPs per pixel of a clip and of every frame but the first; per latent frame and squared pixel; parameters."""


@dataclass(frozen=True, kw_only=True)
class EncoderWork:
    """The cost of one encoder for one window."""

    name: str
    """Name of the encoder."""
    flops: int
    """FLOPs for one window (video and image encoder) or one caption (text encoder)."""
    parameters: int
    """Number of parameters."""


def encoder_work(model: WorldConfig, frames: int, height: int, width: int) -> list[EncoderWork]:
    """The cost of Wan's video encoder, UMT5-XXL and CLIP ViT-H; empty for other encoders (those of tiny are free).

    The FLOPs of the transformers follow from their sizes; those of the video encoder were counted once with torch's
    FlopCounterMode and grow with the pixels (its one attention layer with their square).
    """
    if model.video.text_dim != _TEXT_WIDTH:
        return []
    pixels = height * width
    vae = pixels * (_VAE_CLIP + _VAE_FRAME * (frames - 1)) + _VAE_SQUARE * pixels**2 * (frames // 4 + 1)
    text = _TEXT_LAYERS * (4 * _TEXT_WIDTH * _TEXT_INNER + 3 * _TEXT_WIDTH * _TEXT_HIDDEN)
    work = [
        EncoderWork(name="video encoder (Wan VAE)", flops=round(vae), parameters=_VAE_PARAMETERS),
        _transformer("text encoder (UMT5-XXL)", text, _TEXT_LAYERS, _TEXT_INNER, model.video.text_len),
    ]
    if model.video.clip_dim is not None:
        clip = _CLIP_LAYERS * (4 * _CLIP_WIDTH**2 + 2 * _CLIP_WIDTH * _CLIP_HIDDEN) + _CLIP_PATCH * _CLIP_WIDTH
        work.append(_transformer("image encoder (CLIP ViT-H)", clip, _CLIP_LAYERS, _CLIP_WIDTH, model.video.clip_len))
    return work


def _transformer(name: str, weights: int, layers: int, width: int, tokens: int) -> EncoderWork:
    """Two FLOPs per weight and token, plus the attention products."""
    return EncoderWork(name=name, flops=2 * weights * tokens + 4 * layers * tokens**2 * width, parameters=weights)
