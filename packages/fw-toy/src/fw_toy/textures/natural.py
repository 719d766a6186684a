"""Natural textures: grass, soil, gravel, rock, bark, leaves, straw.

Axis legend: n rows and columns of one tile.
"""

import numpy as np

from fw_toy.textures.noise import ramp, smoothstep, spectral, voronoi, warp
from fw_toy.textures.surface import Color, Surface, kind, mix, pick, plain, shade


@kind
def grass(rng: np.random.Generator, n: int) -> Surface:
    """A meadow from above: crossing blades, clumps, flowers and bare spots."""
    bend = [spectral(rng, n, 1.3, 3, 40) * 9 for _ in range(2)]
    blades = [warp(spectral(rng, n, 0.35, 20, stretch=s), *bend) for s in (0.2, 5.0, 0.5)]
    top = np.maximum(np.maximum(blades[0], blades[1]), blades[2] + 0.2)
    clump = spectral(rng, n, 1.1, 3)
    green: list[Color] = [(0.15, 0.2, 0.06), (0.3, 0.38, 0.12), (0.42, 0.5, 0.18), (0.62, 0.64, 0.32)]
    color = ramp(0.42 + 0.17 * top + 0.1 * clump, green)
    dry = smoothstep(0.8, 2.0, spectral(rng, n, 1.2, 2))
    color = mix(color, shade(plain((0.6, 0.52, 0.32), n), 0.8 + 0.2 * top), dry * 0.55)
    petals = smoothstep(0.006, 0.0035, _dots(rng, n, 260))
    hue = pick(rng, [(0.95, 0.93, 0.85), (0.95, 0.8, 0.25), (0.75, 0.6, 0.85)])
    color = mix(color, hue, petals * smoothstep(-0.3, 1.0, clump))
    return Surface(color=color, height=0.006 * top + 0.004 * clump, gloss=np.full((n, n), 0.08))


@kind
def gravel(rng: np.random.Generator, n: int) -> Surface:
    """Pebbles of two sizes on sand."""
    big, small = voronoi(rng, n, 700, 0.95), voronoi(rng, n, 3000, 0.95)
    stones: list[Color] = [(0.42, 0.38, 0.34), (0.6, 0.56, 0.5), (0.72, 0.66, 0.56), (0.85, 0.82, 0.78)]
    grain = 1 + 0.07 * spectral(rng, n, 0.4, 20)
    cover = smoothstep(-0.6, -0.2, big.per_cell(rng))
    low = ramp(0.45 + 0.22 * small.per_cell(rng), stones) * smoothstep(0, 0.004, small.edge)[..., None] ** 0.5
    high = ramp(0.45 + 0.25 * big.per_cell(rng), stones)
    body = smoothstep(0.001, 0.006, big.edge) * cover
    color = mix(shade(low, 0.8 * grain), shade(high, grain), body)
    height = 0.004 * np.sqrt(np.clip(small.edge, 0, 0.008) / 0.008) + 0.01 * np.sqrt(body)
    return Surface(color=color, height=height, gloss=np.full((n, n), 0.12))


@kind
def dirt(rng: np.random.Generator, n: int) -> Surface:
    """Trodden earth with pebbles and ruts."""
    soil: list[Color] = [(0.3, 0.22, 0.15), (0.45, 0.35, 0.24), (0.58, 0.47, 0.34)]
    clod = spectral(rng, n, 0.8, 4)
    color = ramp(0.5 + 0.16 * clod + 0.12 * spectral(rng, n, 1.5, 1) + 0.08 * spectral(rng, n, 0.2, 40), soil)
    stone = smoothstep(0.008, 0.004, _dots(rng, n, 220)) * smoothstep(-0.5, 0.5, spectral(rng, n, 1.2, 2))
    color = mix(color, shade(plain((0.66, 0.62, 0.56), n), 1 + 0.1 * clod), stone)
    return Surface(color=color, height=0.004 * clod + 0.005 * stone, gloss=np.full((n, n), 0.04))


@kind
def rock(rng: np.random.Generator, n: int) -> Surface:
    """Weathered rock: layers, cracks, lichen."""
    bend = [spectral(rng, n, 1.5, 1, 16) * 22 for _ in range(2)]
    strata = warp(spectral(rng, n, 0.8, 3, stretch=0.25), *bend)
    crack = 1 - smoothstep(0.0, 0.25, np.abs(warp(spectral(rng, n, 1.1, 2), *bend)))
    tones = [pick(rng, [(0.36, 0.34, 0.33), (0.42, 0.36, 0.3)]), pick(rng, [(0.58, 0.55, 0.5), (0.62, 0.54, 0.44)])]
    color = ramp(0.5 + 0.22 * strata + 0.1 * spectral(rng, n, 0.4, 16), [tones[0], tones[1], (0.76, 0.73, 0.68)])
    lichen = smoothstep(1.0, 1.5, spectral(rng, n, 1.0, 3) + 0.4 * spectral(rng, n, 0.4, 20))
    color = mix(shade(color, 1 - 0.45 * crack), (0.66, 0.64, 0.42), lichen * 0.6)
    return Surface(color=color, height=0.006 * strata - 0.01 * crack, gloss=np.full((n, n), 0.1))


@kind
def bark(rng: np.random.Generator, n: int) -> Surface:
    """Furrowed bark; furrows run along v."""
    bend = [spectral(rng, n, 1.4, 2, 20) * 10 for _ in range(2)]
    ridge = warp(spectral(rng, n, 0.7, 5, stretch=5.0), *bend)
    wood = [pick(rng, [(0.2, 0.15, 0.11), (0.25, 0.22, 0.19)]), (0.42, 0.34, 0.26), (0.6, 0.54, 0.46)]
    color = ramp(0.45 + 0.24 * ridge + 0.09 * spectral(rng, n, 0.4, 20), [wood[0], wood[1], wood[2]])
    moss = smoothstep(0.9, 1.8, spectral(rng, n, 1.2, 1)) * 0.5
    return Surface(color=mix(color, (0.4, 0.44, 0.22), moss), height=0.012 * ridge, gloss=np.full((n, n), 0.04))


@kind
def leaves(rng: np.random.Generator, n: int) -> Surface:
    """Layers of leaves, each with a rib."""
    sets: list[list[Color]] = [
        [(0.12, 0.2, 0.05), (0.24, 0.36, 0.1), (0.42, 0.54, 0.18), (0.6, 0.66, 0.3)],
        [(0.1, 0.18, 0.08), (0.18, 0.32, 0.14), (0.32, 0.46, 0.22), (0.5, 0.6, 0.36)],
        [(0.3, 0.14, 0.05), (0.6, 0.32, 0.08), (0.8, 0.5, 0.14), (0.85, 0.68, 0.3)],
        [(0.16, 0.2, 0.05), (0.36, 0.4, 0.1), (0.55, 0.56, 0.18), (0.72, 0.7, 0.34)],
    ]
    tones = sets[int(rng.integers(len(sets)))]
    color, height = plain(tones[0], n) * 0.5, np.zeros((n, n))
    for layer, count in enumerate((500, 350, 220)):
        cells = voronoi(rng, n, count, 1.0)
        turn = rng.uniform(0, np.pi, cells.count)[cells.index]
        a = (cells.u * np.cos(turn) + cells.v * np.sin(turn)) * count**0.5
        b = (cells.v * np.cos(turn) - cells.u * np.sin(turn)) * count**0.5
        shape = smoothstep(0.0, 0.06, 0.26 * np.cos(np.clip(a * 2.6, -1.57, 1.57)) - np.abs(b)) * (np.abs(a) < 0.6)
        shape = shape * smoothstep(-0.5, -0.3, cells.per_cell(rng))
        rib = smoothstep(0.035, 0.01, np.abs(b)) * 0.35
        leaf = ramp(0.5 + 0.2 * cells.per_cell(rng) + 0.1 * layer - 0.3 * np.abs(b) + rib, tones)
        color = mix(color * (1 - 0.25 * shape[..., None]), leaf, shape)
        height = np.where(shape > 0.5, 0.006 * (layer + 1) + 0.012 * a * 0.3, height)
    return Surface(color=shade(color, 1 + 0.08 * spectral(rng, n, 0.6, 8)), height=height, gloss=np.full((n, n), 0.25))


@kind
def straw(rng: np.random.Generator, n: int) -> Surface:
    """Straw or thatch; stalks run along v."""
    bend = [spectral(rng, n, 1.3, 2, 20) * 8 for _ in range(2)]
    stalks = [warp(spectral(rng, n, 0.3, 16, stretch=s), *bend) for s in (7.0, 5.0)]
    top = np.maximum(stalks[0], stalks[1] - 0.2)
    tones: list[Color] = [(0.32, 0.22, 0.1), (0.62, 0.48, 0.24), (0.8, 0.68, 0.4), (0.92, 0.84, 0.6)]
    color = ramp(0.42 + 0.18 * top + 0.08 * spectral(rng, n, 1.2, 1), tones)
    return Surface(color=color, height=0.006 * top, gloss=np.full((n, n), 0.15))


@kind
def sand(rng: np.random.Generator, n: int) -> Surface:
    """Rippled sand with shells."""
    bend = [spectral(rng, n, 1.4, 1, 12) * 16 for _ in range(2)]
    ripple = warp(np.sin(np.arange(n) / n * 2 * np.pi * 14)[:, None] * np.ones((1, n)), *bend)
    body = pick(rng, [(0.8, 0.69, 0.5), (0.74, 0.66, 0.54)])
    grain = spectral(rng, n, 0.2, 50) * 0.08 + spectral(rng, n, 1.2, 2) * 0.06
    shell = smoothstep(0.007, 0.004, _dots(rng, n, 60))
    color = mix(shade(plain(body, n), 1 + 0.06 * ripple + grain), (0.92, 0.88, 0.82), shell)
    return Surface(color=color, height=0.004 * ripple + 0.004 * shell, gloss=np.full((n, n), 0.1))


def _dots(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """Distance to the nearest of about `count` scattered points, in tile lengths."""
    cells = voronoi(rng, n, count, 1.0)
    return np.hypot(cells.u, cells.v)
