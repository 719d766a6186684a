"""Transformer block of the geometry branch and of the camera head, cut in two like the video block.

Axes: n sequences (b f for frame attention, b for global attention), l tokens, c width, k head width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import Compat
from fw_model.layers.attention import AttentionModule, attention
from fw_model.layers.declarations import XAVIER, Declares, Fill, Layer, constant, table
from fw_model.layers.modulation import modulate
from fw_model.layers.rope import Rotation, rotate_halves
from fw_model.parallel.sequence import Share, to_heads, to_tokens

_EPS = 1e-5


class GeometryStep(NamedTuple):
    """Inputs shared by the geometry blocks of one forward pass, for one kind of sequence (frame or global)."""

    modulation: Float[Tensor, "n 6 c"]
    """Six rows from the timestep: shift, scale and gate of the attention, then of the MLP; float32."""
    rotation: Rotation
    share: Share | None = None
    """Division of the tokens of a sequence over processes; None: all are here."""


class GeometryBlock(nn.Module, Declares):
    """Pre-norm block with LayerScale; with `modulated`, the timestep acts on it and q, k are normalized and rotated.

    The released code adds `shift` and `scale` of the MLP to its output and never reads the attention gate; both are
    choices of `Compat`. New blocks start with LayerScale factors of `layer_scale`; `gate_start` is added to the gate
    of their MLP.
    """

    group = "geometry"

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_ratio: int = 4,
        modulated: bool = True,
        compat: Compat | None = None,
        idle_modulation: bool = False,
        layer_scale: float = 0.01,
        gate_start: float = 0.0,
    ) -> None:
        super().__init__()
        compat = compat or Compat()
        self.gate_attention = compat.geometry_attention_gate
        self.modulate_input = compat.geometry_mlp_modulation == "before"
        self.modulated, self.gate_start = modulated, gate_start
        if modulated or idle_modulation:
            self.modulation = nn.Parameter(torch.zeros(1, 6, width), requires_grad=modulated)
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = _Attention(width, heads, normalized=modulated)
        self.ls1 = LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = Mlp(width, width * mlp_ratio, width)
        self.ls2 = LayerScale(width, layer_scale)

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """Row 5 of the modulation is the gate of the MLP."""
        return {"": XAVIER, "modulation": table((5,), self.gate_start)}

    def apply_attention(self, x: Float[Tensor, "n l c"], step: GeometryStep | None) -> Float[Tensor, "n l c"]:
        """Self-attention."""
        if step is None:
            return x + self.ls1(self.attn(self.norm1(x), None))
        shift, scale, gate = self._rows(step)[:3]
        update = self.ls1(self.attn(modulate(self.norm1(x), shift, scale).to(x.dtype), step.rotation, step.share))
        return (x + update * gate[:, None]).to(x.dtype) if self.gate_attention else x + update

    def apply_mlp(self, x: Float[Tensor, "n l c"], step: GeometryStep | None) -> Float[Tensor, "n l c"]:
        """MLP."""
        if step is None:
            return x + self.ls2(self.mlp(self.norm2(x)))
        shift, scale, gate = self._rows(step)[3:]
        if self.modulate_input:
            update = self.mlp(modulate(self.norm2(x), shift, scale).to(x.dtype))
        else:
            update = modulate(self.mlp(self.norm2(x)), shift, scale)
        return (x + self.ls2(update * gate[:, None])).to(x.dtype)

    def forward(self, x: Float[Tensor, "n l c"], step: GeometryStep | None = None) -> Float[Tensor, "n l c"]:
        """The whole block; without `step` the plain one of the camera head."""
        return self.apply_mlp(self.apply_attention(x, step), step)

    def _rows(self, step: GeometryStep) -> tuple[Tensor, ...]:
        return (self.modulation.float() + step.modulation).unbind(1)


class LayerScale(nn.Module, Declares):
    """Per-channel factor of a residual update."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.gamma = nn.Parameter(torch.ones(width))

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """The same factor for every channel."""
        return {"gamma": constant(self.start)}

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Scale."""
        return x * self.gamma


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width_out)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Apply to the last axis."""
        return self.fc2(self.act(self.fc1(x)))


class _Attention(AttentionModule):
    def __init__(self, width: int, heads: int, *, normalized: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads, eps=_EPS) if normalized else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads, eps=_EPS) if normalized else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "n l c"], rotation: Rotation | None, share: Share | None = None
    ) -> Float[Tensor, "n l c"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rotation is not None:
            q, k = rotate_halves(q, rotation), rotate_halves(k, rotation)
        out = attention(to_heads(q, share), to_heads(k, share), to_heads(v, share), self.backend)
        return self.proj(to_tokens(out, share, self.heads).flatten(2))
