"""Textures of rooms: wood, cloth, rugs, images, books, paper.

Axis legend: n rows and columns of one tile; wood grain and cloth warp run along u.
"""

import numpy as np

from fw_toy.textures.noise import courses, ramp, smoothstep, spectral, voronoi, warp
from fw_toy.textures.surface import Color, Surface, hue, kind, mix, pick, plain, shade

_WOODS: list[list[Color]] = [
    [(0.3, 0.17, 0.09), (0.5, 0.31, 0.17), (0.66, 0.45, 0.27)],
    [(0.5, 0.36, 0.2), (0.7, 0.53, 0.33), (0.82, 0.67, 0.46)],
    [(0.2, 0.12, 0.08), (0.34, 0.21, 0.14), (0.46, 0.31, 0.21)],
    [(0.42, 0.38, 0.33), (0.58, 0.53, 0.47), (0.7, 0.66, 0.6)],
    [(0.42, 0.19, 0.1), (0.6, 0.31, 0.17), (0.72, 0.44, 0.27)],
]


def _grain(rng: np.random.Generator, n: int, rings: float = 9.0) -> tuple[np.ndarray, np.ndarray]:
    """Wood grain along u: ring lines in [-1, 1] and fine pores."""
    drift = spectral(rng, n, 1.6, 1, 24, stretch=0.22)
    v = (np.arange(n) / n)[:, None] * rings
    lines = np.sin(2 * np.pi * (np.round(rings) / rings * v + 0.9 * drift))
    pores = spectral(rng, n, 0.35, 16, stretch=0.04)
    return lines, pores


@kind
def wood(rng: np.random.Generator, n: int) -> Surface:
    """Planed wood."""
    lines, pores = _grain(rng, n, float(rng.integers(6, 13)))
    color = ramp(0.5 + 0.2 * lines + 0.13 * pores + 0.1 * spectral(rng, n, 1.3, 1), _WOODS[int(rng.integers(5))])
    knots = smoothstep(0.022, 0.008, _spots(rng, n, 7))
    height = 0.0006 * lines + 0.0007 * pores
    return Surface(color=shade(color, 1 - 0.5 * knots), height=height, gloss=np.full((n, n), 0.4))


@kind
def planks(rng: np.random.Generator, n: int) -> Surface:
    """A plank floor, eight boards a tile."""
    cells = courses(n, 8, 2, 0.37)
    lines, pores = _grain(rng, n, 40.0)
    shift = (rng.integers(0, n, cells.count))[cells.index]
    rows, columns = np.mgrid[0:n, 0:n]
    lines, pores = lines[rows, (columns + shift) % n], pores[rows, (columns + shift) % n]
    gap = 1 - smoothstep(0.0006, 0.0022, cells.edge)
    color = ramp(0.48 + 0.13 * lines + 0.13 * pores + 0.2 * cells.per_cell(rng), _WOODS[int(rng.integers(5))])
    wear = spectral(rng, n, 1.2, 1) * 0.06
    nails = smoothstep(0.0045, 0.003, np.hypot(np.abs(cells.u) - 0.235, np.abs(cells.v) - 0.04))
    color = shade(color, (1 + wear) * (1 - 0.75 * gap) * (1 - 0.5 * nails))
    height = 0.003 * (1 - gap) + 0.0004 * pores + cells.per_cell(rng) * cells.v * 0.012
    return Surface(color=color, height=height, gloss=0.55 * (1 - gap))


@kind
def boards(rng: np.random.Generator, n: int) -> Surface:
    """Rough weathered boards standing upright (along v), with peeling paint."""
    cells = courses(n, 10, 1, 0.0)
    lines, pores = _grain(rng, n, 50.0)
    gap = 1 - smoothstep(0.001, 0.004, 0.05 - np.abs(cells.v) + spectral(rng, n, 1.0, 4) * 0.0005)
    raw = ramp(0.5 + 0.2 * lines + 0.16 * pores + 0.16 * cells.per_cell(rng), _WOODS[3])
    paint = pick(rng, [(0.45, 0.18, 0.14), (0.25, 0.36, 0.4), (0.3, 0.4, 0.28), (0.75, 0.72, 0.65), (0.5, 0.36, 0.22)])
    left = smoothstep(-0.9, -0.3, spectral(rng, n, 0.9, 4, stretch=0.3) + 0.4 * pores)
    color = mix(raw, shade(plain(paint, n), 1 + 0.08 * cells.per_cell(rng) + 0.07 * pores), left * 0.9)
    height = 0.006 * (1 - gap) + 0.0012 * pores + 0.001 * left
    swap = (1, 0)
    color = shade(color, 1 - 0.8 * gap).transpose(1, 0, 2)
    return Surface(color=color, height=height.transpose(swap), gloss=np.full((n, n), 0.1))


@kind
def fabric(rng: np.random.Generator, n: int) -> Surface:
    """Woven cloth: plaid or stripes, threads visible."""
    h, count = rng.uniform(), int(rng.integers(3, 6))
    colors = [hue(h + rng.uniform(-0.1, 0.5) * i, rng.uniform(0.25, 0.7), rng.uniform(0.3, 0.8)) for i in range(3)]
    x = (np.arange(n) + 0.5) / n
    bands = [
        smoothstep(0.1, 0.18, np.abs((x * count + rng.uniform()) % 1 - 0.5) - rng.uniform(0, 0.25)) for _ in range(2)
    ]
    fine = smoothstep(0.42, 0.46, np.abs((x * count * 2 + rng.uniform()) % 1 - 0.5))
    across, along = bands[0][None, :] * np.ones((n, 1)), bands[1][:, None] * np.ones((1, n))
    if rng.uniform() < 0.35:
        along = across
    color = mix(plain(colors[0], n), colors[1], 0.5 * across + 0.5 * along)
    color = mix(color, colors[2], np.maximum(fine[None, :], fine[:, None]) * 0.8)
    threads = 64
    weave = np.sin(x * 2 * np.pi * threads)[:, None] * np.sin(x * 2 * np.pi * threads)[None, :]
    fuzz = spectral(rng, n, 0.3, 20) * 0.07 + spectral(rng, n, 1.3, 1) * 0.05
    folds = spectral(rng, n, 1.6, 1, 12)
    height = 0.0012 * weave + 0.004 * folds
    return Surface(color=shade(color, 1 + 0.12 * weave + fuzz), height=height, gloss=np.full((n, n), 0.05))


@kind
def rug(rng: np.random.Generator, n: int) -> Surface:
    """One whole rug: borders, medallion, ornaments (use with fitted uv)."""
    x = (np.arange(n) + 0.5) / n
    u, v = np.meshgrid(x - 0.5, x - 0.5)
    inset = 0.5 - np.maximum(np.abs(u), np.abs(v))
    h = float(rng.choice([0.0, 0.02, 0.07, 0.55, 0.6, 0.45]))
    palette = [hue(h, 0.6, 0.42), hue(h + 0.55, 0.4, 0.28), hue(0.11, 0.28, 0.8), hue(0.09, 0.5, 0.6)]
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    color = plain(palette[0], n)
    lattice = np.sin(u * 2 * np.pi * 11) * np.sin(v * 2 * np.pi * 11)
    color = mix(color, palette[2], smoothstep(0.55, 0.65, np.abs(lattice)))
    lobes = float(rng.choice([6, 8, 12]))
    for i, size in enumerate((0.34, 0.27, 0.2, 0.12, 0.06)):
        star = smoothstep(-0.004, 0.004, size * (1 + 0.14 * np.cos(lobes * angle + i * np.pi)) - radius)
        color = mix(color, palette[(i + 1) % 4], star)
    for i, (low, high) in enumerate(((0.0, 0.02), (0.02, 0.085), (0.085, 0.1), (0.1, 0.112))):
        band = smoothstep(low - 0.002, low + 0.002, inset) * smoothstep(high + 0.002, high - 0.002, inset)
        color = mix(color, palette[(i * 2 + 1) % 4], band)
        if i == 1:
            beads = np.sin(u * 2 * np.pi * 16) + np.sin(v * 2 * np.pi * 16)
            color = mix(color, palette[3], band * smoothstep(0.5, 0.7, np.abs(beads)))
    knots = spectral(rng, n, 0.2, 60)
    color = shade(color, 1 + 0.09 * knots + 0.06 * spectral(rng, n, 1.0, 3, stretch=0.2))
    return Surface(color=color, height=0.0008 * knots, gloss=np.full((n, n), 0.02))


@kind
def painting(rng: np.random.Generator, n: int) -> Surface:
    """A landscape or an abstract image (use with fitted uv)."""
    x = (np.arange(n) + 0.5) / n
    u, v = np.meshgrid(x, x)
    strokes = warp(spectral(rng, n, 0.6, 6, stretch=0.4), *(spectral(rng, n, 1.5, 1, 12) * 18 for _ in range(2)))
    h = rng.uniform()
    if rng.uniform() < 0.5:
        color = ramp(v + 0.05 * strokes, [hue(h + 0.1, 0.3, 0.95), hue(h, 0.45, 0.8), hue(h + 0.6, 0.45, 0.65)])
        color = mix(color, (0.98, 0.93, 0.75), smoothstep(0.07, 0.06, np.hypot(u - rng.uniform(0.2, 0.8), v - 0.75)))
        for i in range(5):
            ridge = 0.62 - 0.12 * i + 0.05 * spectral(rng, n, 1.5, 1)[0][None, :] * np.ones((n, 1))
            tone = hue(h + 0.3 + 0.05 * i, 0.25 + 0.1 * i, 0.7 - 0.1 * i)
            color = mix(color, shade(plain(tone, n), 1 + 0.12 * strokes), smoothstep(0.0, 0.01, ridge - v))
    else:
        cells = voronoi(rng, n, int(rng.integers(9, 40)), 1.0)
        wheel = [hue(h + rng.uniform(0, 0.5), rng.uniform(0.3, 0.8), rng.uniform(0.25, 0.95)) for _ in range(6)]
        color = shade(ramp(rng.uniform(size=cells.count)[cells.index], wheel), 1 + 0.1 * strokes)
        color = mix(color, (0.1, 0.09, 0.09), smoothstep(0.006, 0.003, cells.edge))
        for _ in range(5):
            spot = np.hypot(u - rng.uniform(), v - rng.uniform())
            color = mix(
                color, hue(rng.uniform(), 0.7, 0.8), smoothstep(0.01, 0.005, np.abs(spot - rng.uniform(0.05, 0.3)))
            )
    color = shade(color, 1 + 0.05 * strokes + 0.03 * spectral(rng, n, 0.3, 40))
    return Surface(color=color, height=0.0012 * strokes, gloss=np.full((n, n), 0.25))


@kind
def books(rng: np.random.Generator, n: int) -> Surface:
    """Book spines side by side: cloth, bands, title blocks (fit v to the books' height)."""
    edges = np.cumsum(rng.uniform(0.6, 1.6, 24))
    edges = np.concatenate([[0.0], edges / edges[-1]])
    x = (np.arange(n) + 0.5) / n
    which = np.clip(np.searchsorted(edges, x) - 1, 0, 23)
    middle, half = (edges[which] + edges[which + 1]) / 2, (edges[which + 1] - edges[which]) / 2
    across = (x - middle) / half
    cloth = np.array([hue(rng.uniform(), rng.uniform(0.2, 0.75), rng.uniform(0.2, 0.75)) for _ in range(24)])
    gold = np.array(
        [hue(rng.uniform(0.08, 0.14), 0.5, 0.9) if rng.uniform() < 0.7 else (0.1, 0.1, 0.1) for _ in range(24)]
    )
    v = x[:, None]
    color = np.broadcast_to(cloth[which], (n, n, 3)).copy()
    bands = np.zeros((n, n))
    for _ in range(3):
        at, width = rng.uniform(0.08, 0.92, 24)[which][None], rng.uniform(0.006, 0.02, 24)[which][None]
        bands = np.maximum(bands, smoothstep(width, width * 0.6, np.abs(v - at)))
    start = rng.uniform(0.25, 0.5, 24)[which][None]
    title = (np.abs(across)[None] < 0.5) & (v > start) & (v < start + 0.26)
    letters = title * smoothstep(0.1, 0.5, spectral(rng, n, 0.3, 50, stretch=0.5))
    color = mix(color, gold[which][None] * np.ones((n, 1, 1)), np.maximum(bands, letters))
    top = rng.uniform(0.8, 1.0, 24)[which][None]
    round_off = np.sqrt(np.clip(1 - across**2, 0, 1))[None] * np.ones((n, 1))
    fuzz = 1 + 0.06 * spectral(rng, n, 0.4, 20)
    color = shade(color, (0.35 + 0.65 * round_off) * fuzz * np.where(v > top, 0.12, 1.0))
    return Surface(color=color, height=0.012 * round_off, gloss=np.full((n, n), 0.2))


@kind
def paper(rng: np.random.Generator, n: int) -> Surface:
    """Crumpled parchment with writing; also lamp shades."""
    lines = smoothstep(0.2, 0.4, np.sin(np.arange(n) / n * 2 * np.pi * 24))[:, None] * np.ones((1, n))
    ink = (
        lines
        * smoothstep(0.2, 0.7, spectral(rng, n, 0.3, 30, stretch=0.5))
        * smoothstep(-0.8, -0.3, spectral(rng, n, 1.2, 2))
    )
    crease = spectral(rng, n, 1.3, 2)
    color = shade(plain(pick(rng, [(0.9, 0.85, 0.72), (0.85, 0.78, 0.6)]), n), 1 + 0.05 * crease)
    return Surface(color=mix(color, (0.2, 0.15, 0.12), ink * 0.75), height=0.004 * crease, gloss=np.full((n, n), 0.05))


@kind
def pottery(rng: np.random.Generator, n: int) -> Surface:
    """Glazed clay with painted bands."""
    h = rng.uniform()
    v = ((np.arange(n) + 0.5) / n)[:, None] + 0.004 * spectral(rng, n, 1.3, 1)
    u = ((np.arange(n) + 0.5) / n)[None, :]
    color = plain(pick(rng, [(0.7, 0.42, 0.28), (0.3, 0.42, 0.5), (0.85, 0.8, 0.7), (0.4, 0.48, 0.36)]), n)
    zigzag = np.abs((u * 12 % 1) - 0.5) * 0.12
    for at, tone in zip(rng.uniform(0, 1, 6), [hue(h + 0.3 * i, 0.5, 0.3 + 0.1 * i) for i in range(6)], strict=True):
        line = smoothstep(0.03, 0.02, np.abs((v - at + zigzag * (at > 0.5) + 0.5) % 1 - 0.5))
        color = mix(color, tone, line)
    dots = smoothstep(0.016, 0.012, _spots(rng, n, 90))
    color = mix(color, hue(h + 0.5, 0.3, 0.9), dots * 0.8)
    speck = spectral(rng, n, 0.3, 30)
    height = 0.0006 * spectral(rng, n, 1.0, 4) + 0.001 * np.sin(v * 2 * np.pi * 30)
    return Surface(color=shade(color, 1 + 0.05 * speck), height=height, gloss=np.full((n, n), 0.7))


def _spots(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """Distance to the nearest of about `count` scattered points, in tile lengths."""
    cells = voronoi(rng, n, count, 1.0)
    return np.hypot(cells.u, cells.v)
