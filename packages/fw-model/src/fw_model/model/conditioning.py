"""Conditioning inputs of one sample, embedded once for all denoising steps: prompt, image and camera.

Axes: b batch, t text tokens, i image tokens, c channels, f latent frames, y x latent rows and columns, h w token rows
and columns, l = f h w, d video width, p camera feature width.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fw_model.config import PATCH, WorldConfig
from fw_model.wan.blocks import ContextKV, ContextTokens


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """Output of `FantasyWorld.encode_condition`; `forward` takes it in place of the raw inputs."""

    context: ContextTokens | tuple[ContextKV, ...]
    """Embedded prompt and image, or their keys and values in every video block (cached)."""
    y: Float[Tensor, "b c f y x"] | None
    """Channels beside the noisy latents: the image latent, and the mask if the backbone has one."""
    camera: Float[Tensor, "b l p"] | None
    """Pose encoder's output; None: no camera, the adapters are bypassed."""
    control: Float[Tensor, "b d f h w"] | None
    """Control adapter's output; None: nothing is added to the patch embedding."""
    pose_tokens: Float[Tensor, "b f g"] | None
    """Camera tokens made from known poses; None: the learned ones."""

    def block(self, index: int) -> ContextTokens | ContextKV:
        """Keys and values for the cross-attention of video block `index`."""
        return self.context if isinstance(self.context, ContextTokens) else self.context[index]

    def size(self) -> int:
        """Samples in the batch."""
        first = self.context if isinstance(self.context, ContextTokens) else self.context[0]
        return first[0].shape[0]


def check_inputs(
    config: WorldConfig, *, context: Tensor, y: Tensor | None, clip_feature: Tensor | None, plucker: Tensor | None
) -> None:
    """Raise ValueError, naming the expected shape, unless the raw inputs fit the model and each other."""
    video, camera = config.video, config.camera
    _need(
        context.shape[-1] == video.text_dim,
        f"context has width {context.shape[-1]}, model {config.name!r} needs {video.text_dim}: "
        "use the text encoder of the model",
    )
    _need(
        context.shape[1] == video.text_len,
        f"context has {context.shape[1]} tokens, model {config.name!r} needs {video.text_len}: "
        "pad it with zeros (the model attends to the padding, so its length matters)",
    )
    have = 0 if y is None else y.shape[1]
    _need(
        have == video.y_dim,
        f"y has {have} channels, model {config.name!r} needs {video.y_dim} "
        "(16: the first frame's latent and zeros; 20: 4 mask channels before it; 0: omit y)",
    )
    if video.clip_dim is None:
        _need(clip_feature is None, f"model {config.name!r} has no image branch; omit clip_feature")
    else:
        wanted = (video.clip_len, video.clip_dim)
        _need(
            clip_feature is not None and tuple(clip_feature.shape[1:]) == wanted,
            f"clip_feature must be [b, {wanted[0]}, {wanted[1]}] for model {config.name!r}, "
            f"not {None if clip_feature is None else tuple(clip_feature.shape)}",
        )
    if plucker is not None:
        _need(
            camera is not None or video.control_dim is not None,
            f"model {config.name!r} has neither pose encoder nor control adapter; omit plucker",
        )
        _need(plucker.shape[1] % 4 == 1, f"plucker has {plucker.shape[1]} frames; it must be 4 (f - 1) + 1")
        if y is not None:
            scale = camera.downscale if camera is not None else 8
            wanted = (4 * (y.shape[2] - 1) + 1, scale * y.shape[3], scale * y.shape[4])
            _need(
                tuple(plucker.shape[1:4]) == wanted,
                f"plucker covers (frames, height, width) {tuple(plucker.shape[1:4])}, the latents ask for {wanted}",
            )


def check_grid(config: WorldConfig, latents: Tensor, timestep: Tensor, condition: Conditioning) -> None:
    """Raise ValueError unless latents, timesteps and conditioning fit each other and the model's patches."""
    batch, channels, frames, rows, columns = latents.shape
    _need(channels == config.video.out_dim, f"latents have {channels} channels, the model {config.video.out_dim}")
    _need(
        rows % PATCH[1] == 0 and columns % PATCH[2] == 0,
        f"latents of {rows} x {columns} do not divide into tokens: "
        "the video's height and width must be multiples of 16",
    )
    _need(timestep.shape[0] == batch, f"{timestep.shape[0]} timesteps for {batch} samples; give one for each")
    _need(condition.size() == batch, f"conditioning of {condition.size()} samples for {batch} latents")
    if condition.y is not None:
        _need(
            condition.y.shape[2:] == latents.shape[2:],
            f"y covers {tuple(condition.y.shape[2:])}, the latents {tuple(latents.shape[2:])} (frames, rows, columns)",
        )
    if condition.control is not None:
        grid = (frames, rows // PATCH[1], columns // PATCH[2])
        _need(
            tuple(condition.control.shape[2:]) == grid,
            f"the control adapter's output covers the token grid {tuple(condition.control.shape[2:])}, "
            f"the latents {grid}: the Pluecker maps are of another size or length",
        )
    if condition.camera is not None:
        tokens = frames * rows * columns // (PATCH[1] * PATCH[2])
        _need(
            condition.camera.shape[1] == tokens,
            f"camera features for {condition.camera.shape[1]} tokens, the latents have {tokens}: "
            "the Pluecker maps are of another size or length",
        )


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem + ".")
