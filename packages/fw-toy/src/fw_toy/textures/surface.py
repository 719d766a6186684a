"""Texture tiles, and the registry of their kinds.

Axis legend: n rows and columns of one tile. Colors are sRGB values in [0, 1] as painted, made linear by the atlas.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Color = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Surface:
    """One tile of a texture."""

    color: Float[np.ndarray, "n n 3"]
    """sRGB color in [0, 1]."""
    height: Float[np.ndarray, "n n"]
    """Relief in tile lengths; its slope tilts the normals."""
    gloss: Float[np.ndarray, "n n"]
    """Shine in [0, 1]."""


Painter = Callable[[np.random.Generator, int], Surface]
KINDS: dict[str, Painter] = {}


def kind(painter: Painter) -> Painter:
    """Registers a painter under its function's name."""
    KINDS[painter.__name__] = painter
    return painter


def shade(color: Float[np.ndarray, "n n 3"], factor: np.ndarray) -> Float[np.ndarray, "n n 3"]:
    """`color` times a gray factor, kept in [0, 1]."""
    return np.clip(color * factor[..., None], 0.0, 1.0)


def mix(a: np.ndarray, b: np.ndarray | Color, weight: np.ndarray) -> Float[np.ndarray, "n n 3"]:
    """`a` where the weight is 0, `b` where it is 1."""
    return a + (np.asarray(b, float) - a) * np.clip(weight, 0.0, 1.0)[..., None]


def plain(color: Color, n: int) -> Float[np.ndarray, "n n 3"]:
    """One color everywhere."""
    return np.broadcast_to(np.asarray(color, float), (n, n, 3)).copy()


def pick(rng: np.random.Generator, colors: list[Color], spread: float = 0.03) -> Color:
    """One of the colors, moved a little."""
    chosen = np.asarray(colors[int(rng.integers(len(colors)))]) + rng.normal(0, spread, 3)
    r, g, b = np.clip(chosen, 0.02, 0.98)
    return float(r), float(g), float(b)


def hue(h: float, s: float, v: float) -> Color:
    """Hue, saturation, value in [0, 1] to sRGB."""
    k = (np.array([5.0, 3.0, 1.0]) + h * 6) % 6
    r, g, b = v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1)
    return float(r), float(g), float(b)
