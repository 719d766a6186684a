"""Transformer parts of the pair network: rotary code in two dimensions, attention, encoder and decoder blocks.

Names of the parameters are those of released DUSt3R checkpoints. Axis legend: b batch, n tokens of a view (row-major),
m tokens of the other view, d width, h heads, k width of one head.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

NORM_EPS = 1e-6
ROPE_BASE = 100.0


def token_positions(rows: int, columns: int, device: torch.device | None = None) -> Int[Tensor, "n 2"]:
    """(row, column) of every token of a grid, row-major."""
    grid = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack(grid, dim=-1).reshape(-1, 2)


def rotary_code(positions: Int[Tensor, "n 2"], head_dim: int) -> Float[Tensor, "2 n k"]:
    """Cosine and sine (stacked) of the angles of every element of a head vector (Su et al. 2021, once per axis).

    The first half of the vector turns with the row, the second with the column. Within each half of size d the
    frequencies are 100^(-2 i / d), and element i is paired with element i + d / 2.
    """
    half = head_dim // 2
    frequency = ROPE_BASE ** (-torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half)
    angle = positions[:, :, None].float() * frequency  # (n, axis, half / 2)
    angle = rearrange(angle[:, :, None].expand(-1, -1, 2, -1), "n a pair i -> n (a pair i)")
    return torch.stack([angle.cos(), angle.sin()])


def rotate(heads: Float[Tensor, "b h n k"], code: Float[Tensor, "2 n k"]) -> Float[Tensor, "b h n k"]:
    """Apply `rotary_code` to queries or keys."""
    low, high = rearrange(heads, "b h n (a pair i) -> pair b h n a i", a=2, pair=2)
    turned = rearrange([-high, low], "pair b h n a i -> b h n (a pair i)")
    cos, sin = code.to(heads.dtype)
    return heads * cos + turned * sin


class PairMlp(nn.Module):
    """Two linears with an exact GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Map every token."""
        return self.fc2(gelu(self.fc1(x)))


class Attention(nn.Module):
    """Self-attention with one fused projection (query, key, value in this order)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], code: Float[Tensor, "2 n k"]) -> Float[Tensor, "b n d"]:
        """Mix the tokens of one view."""
        q, k, v = rearrange(self.qkv(x), "b n (three h k) -> three b h n k", three=3, h=self.heads)
        mixed = scaled_dot_product_attention(rotate(q, code), rotate(k, code), v)
        return self.proj(rearrange(mixed, "b h n k -> b n (h k)"))


class PairCrossAttention(nn.Module):
    """Attention of one view's tokens to the other's; each side turns with its own positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        other: Float[Tensor, "b m d"],
        code: Float[Tensor, "2 n k"],
        other_code: Float[Tensor, "2 m k"],
    ) -> Float[Tensor, "b n d"]:
        """Read from `other` into x."""
        q, k, v = (
            rearrange(part, "b n (h k) -> b h n k", h=self.heads)
            for part in (self.projq(x), self.projk(other), self.projv(other))
        )
        mixed = scaled_dot_product_attention(rotate(q, code), rotate(k, other_code), v)
        return self.proj(rearrange(mixed, "b h n k -> b n (h k)"))


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = PairMlp(dim, mlp_ratio * dim)

    def forward(self, x: Float[Tensor, "b n d"], code: Float[Tensor, "2 n k"]) -> Float[Tensor, "b n d"]:
        """One layer."""
        x = x + self.attn(self.norm1(x), code)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the other view's tokens, and MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.cross_attn = PairCrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = PairMlp(dim, mlp_ratio * dim)
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        other: Float[Tensor, "b m d"],
        code: Float[Tensor, "2 n k"],
        other_code: Float[Tensor, "2 m k"],
    ) -> Float[Tensor, "b n d"]:
        """One layer; `other` is what the other branch had *before* this layer."""
        x = x + self.attn(self.norm1(x), code)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(other), code, other_code)
        return x + self.mlp(self.norm3(x))
