"""One block of the Wan video transformer, cut in two at the place where the branches meet.

Axes: b batch, l video tokens, d width, t text tokens, c image (CLIP) tokens. `attend` is self- and cross-attention with
the camera shift, `feed` the feed-forward layer; one after the other they are the plain Wan block.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.layers.attention import AttentionModule, attention
from fw_model.layers.declarations import XAVIER, Declares, Fill, Layer, table
from fw_model.layers.modulation import RMSNorm, TanhGELU, layer_norm, modulate
from fw_model.layers.rope import Rotation, rotate_pairs
from fw_model.parallel.sequence import Share, to_heads, to_tokens
from fw_model.wan.camera_adapter import CameraAdapter


class ContextKV(NamedTuple):
    """Keys and values of the prompt and of the image in one block; constant over the steps of a sample."""

    k: Float[Tensor, "b t h e"]
    v: Float[Tensor, "b t h e"]
    k_image: Float[Tensor, "b c h e"] | None
    v_image: Float[Tensor, "b c h e"] | None


class ContextTokens(NamedTuple):
    """Embedded prompt and image, not yet projected to keys and values."""

    text: Float[Tensor, "b t d"]
    image: Float[Tensor, "b c d"] | None


class VideoStep(NamedTuple):
    """Inputs shared by all video blocks of one forward pass."""

    modulation: Float[Tensor, "b 6 d"]
    """Shift, scale and gate of the attention, then of the feed-forward layer, from the timestep; float32."""
    rotation: Rotation
    camera: Float[Tensor, "b l p"] | None
    """Camera features; None bypasses every camera adapter."""
    share: Share | None = None
    """Division of the tokens over processes; None: all are here."""


class SelfAttention(AttentionModule):
    """Full attention over the video tokens: q and k RMS-normalized over the whole width, then rotated."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def forward(
        self, x: Float[Tensor, "b l d"], rotation: Rotation, share: Share | None = None
    ) -> Float[Tensor, "b l d"]:
        """Attend; with `share`, `x` and `rotation` are those of the tokens of this process."""
        q = to_heads(rotate_pairs(_split(self.norm_q(self.q(x)), self.heads), rotation), share)
        k = to_heads(rotate_pairs(_split(self.norm_k(self.k(x)), self.heads), rotation), share)
        out = attention(q, k, to_heads(_split(self.v(x), self.heads), share), self.backend)
        return self.o(to_tokens(out, share, self.heads).flatten(2))


class CrossAttention(AttentionModule):
    """Two attentions that share their queries, one over the prompt and one over the image, summed before `o`."""

    def __init__(self, dim: int, heads: int, eps: float, image: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)
        if image:
            self.k_img, self.v_img = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.norm_k_img = RMSNorm(dim, eps)

    def project(self, context: ContextTokens) -> ContextKV:
        """Keys and values of a context, for one use or for a whole sample."""
        text, image = context
        k, v = _split(self.norm_k(self.k(text)), self.heads), _split(self.v(text), self.heads)
        if image is None:
            return ContextKV(k, v, None, None)
        return ContextKV(
            k, v, _split(self.norm_k_img(self.k_img(image)), self.heads), _split(self.v_img(image), self.heads)
        )

    def forward(self, x: Float[Tensor, "b l d"], context: ContextTokens | ContextKV) -> Float[Tensor, "b l d"]:
        """Return the sum of both attentions, before the output projection `o`."""
        kv = context if isinstance(context, ContextKV) else self.project(context)
        q = _split(self.norm_q(self.q(x)), self.heads)
        out = attention(q, kv.k, kv.v, self.backend)
        if kv.k_image is not None and kv.v_image is not None:
            out = out + attention(q, kv.k_image, kv.v_image, self.backend)
        return out.flatten(2)


class WanBlock(nn.Module, Declares):
    """Self-attention, cross-attention with the camera shift, feed-forward; modulated by the timestep.

    Args:
        dim: token width.
        heads: attention heads.
        ffn_dim: hidden width of the feed-forward layer.
        eps: of the norms.
        image: whether it attends to CLIP tokens too.
        camera_dim: width of the camera features; None: no camera adapter.
        gate_start: added to both residual gates of a new block.
    """

    group = "video"

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        ffn_dim: int,
        eps: float,
        image: bool,
        camera_dim: int | None = None,
        camera_activation: Literal["relu", "gelu"] = "relu",
        gate_start: float = 0.0,
    ) -> None:
        super().__init__()
        self.eps, self.gate_start = eps, gate_start
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))
        self.self_attn = SelfAttention(dim, heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, heads, eps, image)
        self.camera_adapter = None if camera_dim is None else CameraAdapter(dim, camera_dim, camera_activation)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), TanhGELU(), nn.Linear(ffn_dim, dim))

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """Rows 2 and 5 of the modulation are the gates."""
        return {"": XAVIER, "modulation": table((2, 5), self.gate_start)}

    def apply_attention(
        self, x: Float[Tensor, "b l d"], step: VideoStep, context: ContextTokens | ContextKV
    ) -> Float[Tensor, "b l d"]:
        """Both attentions and the camera shift."""
        shift, scale, gate = self._rows(step)[:3]
        normed = modulate(layer_norm(x, self.eps), shift, scale).to(x.dtype)
        x = _add(x, self.self_attn(normed, step.rotation, step.share), gate)
        mixed = self.cross_attn(self.norm3(x).to(x.dtype), context)
        if self.camera_adapter is not None and step.camera is not None:
            mixed = mixed + self.camera_adapter(mixed, step.camera)
        return x + self.cross_attn.o(mixed)

    def apply_mlp(self, x: Float[Tensor, "b l d"], step: VideoStep) -> Float[Tensor, "b l d"]:
        """Feed-forward layer."""
        shift, scale, gate = self._rows(step)[3:]
        return _add(x, self.ffn(modulate(layer_norm(x, self.eps), shift, scale).to(x.dtype)), gate)

    def forward(
        self, x: Float[Tensor, "b l d"], step: VideoStep, context: ContextTokens | ContextKV
    ) -> Float[Tensor, "b l d"]:
        """The whole block, as in a preconditioning block."""
        return self.apply_mlp(self.apply_attention(x, step, context), step)

    def _rows(self, step: VideoStep) -> tuple[Tensor, ...]:
        return (self.modulation.float() + step.modulation).unbind(1)


def _add(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x, update, gate[:, None]).to(x.dtype)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1))
