"""LightGlue, a network that matches the points of two images (Lindenberger et al., ICCV 2023), our own code.

The size of its ALIKED weights: descriptors of 128, nine layers of 256. Every layer runs on every point: the published
early stop and pruning only save time. Axis legend: n, m points of both images, d width, a heads.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, LAYERS = 256, 4, 9
MIN_SCORE = 0.1
"""Probability from which two points match."""


class LightGlue(nn.Module):
    """Points and descriptors of two images to matches. The order of the parts is that of the published weights."""

    def __init__(self, descriptor: int = 128) -> None:
        super().__init__()
        self.project = nn.Linear(descriptor, WIDTH)
        self.frequencies = nn.Linear(2, WIDTH // HEADS // 2, bias=False)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.matchability = nn.Linear(WIDTH, 1)
        self.compare = nn.Linear(WIDTH, WIDTH)

    def forward(
        self,
        positions: tuple[Float[Tensor, "n 2"], Float[Tensor, "m 2"]],
        descriptors: tuple[Float[Tensor, "n _"], Float[Tensor, "m _"]],
        sizes: tuple[tuple[int, int], tuple[int, int]],
    ) -> Float[Tensor, "n m"]:
        """Log probability that each point matches each one of the other image; positions and sizes are (x, y)."""
        turn = [self._rotation(points, size) for points, size in zip(positions, sizes, strict=True)]
        first, second = (self.project(values) for values in descriptors)
        for layer in self.layers:
            first, second = layer(first, second, *turn)
        return self._assign(first, second)

    def _rotation(self, points: Float[Tensor, "n 2"], size: tuple[int, int]) -> Float[Tensor, "2 n e"]:
        """Cosine and sine by which queries and keys turn, from positions in units of half the long side."""
        centered = (points - torch.tensor(size) / 2) / (max(size) / 2)
        angle = repeat(self.frequencies(centered), "n e -> n (e two)", two=2)
        return torch.stack([angle.cos(), angle.sin()])

    def _assign(self, first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        likeness = self.compare(first) @ self.compare(second).T / WIDTH**0.5
        known = F.logsigmoid(self.matchability(first)) + F.logsigmoid(self.matchability(second)).T
        return F.log_softmax(likeness, dim=1) + F.log_softmax(likeness, dim=0) + known


class _Layer(nn.Module):
    """Attention within each image, then to the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.own = _SelfAttention()
        self.other = _CrossAttention()

    def forward(self, first: Tensor, second: Tensor, turn_first: Tensor, turn_second: Tensor) -> tuple[Tensor, Tensor]:
        return self.other(self.own(first, turn_first), self.own(second, turn_second))


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mix = _mixer()

    def forward(self, values: Float[Tensor, "n d"], turn: Float[Tensor, "2 n e"]) -> Float[Tensor, "n d"]:
        query, key, value = rearrange(self.qkv(values), "n (a e three) -> three a n e", a=HEADS, three=3)
        seen = F.scaled_dot_product_attention(_turn(query, turn)[None], _turn(key, turn)[None], value[None])
        message = self.out(rearrange(seen, "1 a n e -> n (a e)"))
        return values + self.mix(torch.cat([values, message], dim=1))


class _CrossAttention(nn.Module):
    """Both directions share queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mix = _mixer()

    def forward(
        self, first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        queries = [_heads(self.query(values)) for values in (first, second)]
        values = [_heads(self.value(values)) for values in (first, second)]
        results = []
        for here, (own, there) in enumerate(((first, 1), (second, 0))):
            seen = F.scaled_dot_product_attention(queries[here], queries[there], values[there])
            message = self.out(rearrange(seen, "1 a n e -> n (a e)"))
            results.append(own + self.mix(torch.cat([own, message], dim=1)))
        return results[0], results[1]


def mutual_matches(log_probability: Float[Tensor, "n m"]) -> Int64[Tensor, "k 2"]:
    """Indices of the pairs that are each other's best and more likely than MIN_SCORE."""
    best = log_probability.max(dim=1)
    back = log_probability.argmax(dim=0)
    index = torch.arange(len(log_probability))
    keep = (back[best.indices] == index) & (best.values.exp() > MIN_SCORE)
    return torch.stack([index[keep], best.indices[keep]], dim=1)


def _mixer() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * WIDTH, 2 * WIDTH), nn.LayerNorm(2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
    )


def _heads(values: Float[Tensor, "n d"]) -> Float[Tensor, "1 a n e"]:
    return rearrange(values, "n (a e) -> 1 a n e", a=HEADS)


def _turn(values: Float[Tensor, "a n e"], turn: Float[Tensor, "2 n e"]) -> Float[Tensor, "a n e"]:
    """Neighboring channels as complex numbers, turned by the angle of the position."""
    even, odd = values[..., 0::2], values[..., 1::2]
    swapped = torch.stack([-odd, even], dim=-1).flatten(-2)
    return values * turn[0] + swapped * turn[1]
