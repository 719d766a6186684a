"""Texture tiles with mip levels, painted on first use and kept for the process, and how they are looked up.

Axis legend: s samples, 6 channels: linear red, green, blue, slope along u, slope along v, gloss. A tile repeats with
period 1 in u and v. Levels halve the side; all tiles have the same side, so one flat index finds any texel.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from fw_toy.textures import built, indoor, natural
from fw_toy.textures.noise import spectral
from fw_toy.textures.surface import KINDS

SIDES = (128, 256, 512)
"""Sides that tiles are painted at, for images of up to 48, up to 128, and more rows."""
CHANNELS = 6
VARIANTS = 4
PAINTERS = (built, natural, indoor)


@lru_cache(maxsize=128)
def tile(kind: str, variant: int, side: int) -> Float[np.ndarray, "t 6"]:
    """All mip levels of one texture variant, finest first, as float16; a fixed function of its arguments."""
    if kind not in KINDS:
        raise ValueError(f"texture kind {kind!r} is not known; known kinds: {', '.join(sorted(KINDS))}")
    rng = np.random.default_rng([sum(ord(c) * 131**i for i, c in enumerate(kind)) % 2**32, variant])
    surface = KINDS[kind](rng, side)
    slope_u = (np.roll(surface.height, -1, 1) - np.roll(surface.height, 1, 1)) * (side / 2)
    slope_v = (np.roll(surface.height, -1, 0) - np.roll(surface.height, 1, 0)) * (side / 2)
    gloss = np.broadcast_to(surface.gloss, slope_u.shape)
    relief = np.clip(np.stack([slope_u, slope_v], -1), -1.5, 1.5)
    texels = np.concatenate([srgb_to_linear(surface.color), relief, gloss[..., None]], -1)
    return _pyramid(texels)


@lru_cache(maxsize=1)
def _noise_tile() -> Float[np.ndarray, "t 6"]:
    rng = np.random.default_rng(7)
    fine, coarse = spectral(rng, SIDES[-1], 0.7, 2), spectral(rng, SIDES[-1], 1.3, 1)
    return _pyramid(np.stack([fine, coarse] + [np.zeros_like(fine)] * 4, -1))


def detail_noise(uv: Float[np.ndarray, "s 2"], footprint: Float[np.ndarray, " s"]) -> Float[np.ndarray, "s 6"]:
    """Noise at many scales, repeating with period 1: fine in channel 0, coarse in channel 1, unit deviation."""
    return _lookup(_noise_tile(), SIDES[-1], 0, uv, footprint)


class Atlas:
    """The tiles that one scene uses, side by side in one array."""

    def __init__(self, names: list[tuple[str, int]], side: int):
        self._side, self._stride = side, len(tile(*names[0], side))
        self._texels = np.concatenate([tile(kind, variant, side) for kind, variant in names])

    def sample(
        self, slot: Int[np.ndarray, " s"], uv: Float[np.ndarray, "s 2"], footprint: Float[np.ndarray, " s"]
    ) -> Float[np.ndarray, "s 6"]:
        """Bilinear lookup at the mip level where one texel is about `footprint` (in tiles) wide."""
        return _lookup(self._texels, self._side, slot.astype(np.int64) * self._stride, uv, footprint)

    def means(self) -> Float[np.ndarray, "k 6"]:
        """Mean channel values of every tile."""
        return self._texels[self._stride - 1 :: self._stride].astype(np.float32)


def srgb_to_linear(color: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, for values in [0, 1]."""
    c = np.clip(color, 0.0, 1.0)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(color: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, for values in [0, 1]."""
    c = np.clip(color, 0.0, 1.0)
    return np.where(c <= 0.0031308, c * 12.92, 1.055 * c ** (1 / 2.4) - 0.055)


def _lookup(
    texels: Float[np.ndarray, "t 6"],
    side: int,
    start: Int[np.ndarray, " s"] | int,
    uv: Float[np.ndarray, "s 2"],
    footprint: Float[np.ndarray, " s"],
) -> Float[np.ndarray, "s 6"]:
    """Bilinear lookup in the pyramid that begins at `start`; the level is floor(log2(footprint in texels))."""
    starts = np.cumsum([0] + [4**k for k in range(side.bit_length() - 1, 0, -1)])
    level = np.log2(np.maximum(footprint * side, 1.0)).astype(np.int64)
    level = np.minimum(level, len(starts) - 1)
    width = side >> level
    position = (uv - np.floor(uv)) * width[:, None].astype(np.float32) - np.float32(0.5)
    corner = np.floor(position)
    weight = (position - corner).astype(np.float32)
    column = corner.astype(np.int64)
    mask = width - 1
    c0, c1 = column[:, 0] & mask, (column[:, 0] + 1) & mask
    base = start + starts[level]
    r0, r1 = base + (column[:, 1] & mask) * width, base + ((column[:, 1] + 1) & mask) * width
    wu, wv = weight[:, :1], weight[:, 1:]
    a, b, c, d = (texels.take(index, axis=0).astype(np.float32) for index in (r0 + c0, r0 + c1, r1 + c0, r1 + c1))
    low, high = a + (b - a) * wu, c + (d - c) * wu
    return low + (high - low) * wv


def _pyramid(texels: np.ndarray) -> np.ndarray:
    levels = [texels.astype(np.float32)]
    while len(levels[-1]) > 1:
        t = levels[-1]
        levels.append((t[0::2, 0::2] + t[1::2, 0::2] + t[0::2, 1::2] + t[1::2, 1::2]) * np.float32(0.25))
    return np.concatenate([level.reshape(-1, texels.shape[-1]) for level in levels]).astype(np.float16)
