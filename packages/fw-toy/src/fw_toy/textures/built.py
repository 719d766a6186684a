"""Textures of what is built: bricks, stones, tiles, plaster, roofs, metal.

Axis legend: n rows and columns of one tile; v (rows) points up on walls.
"""

import numpy as np

from fw_toy.textures.noise import courses, ramp, smoothstep, spectral, voronoi, warp
from fw_toy.textures.surface import Color, Surface, hue, kind, mix, pick, plain, shade


@kind
def brick(rng: np.random.Generator, n: int) -> Surface:
    """Fired bricks in mortar, twelve courses a tile."""
    body = pick(rng, [(0.62, 0.32, 0.24), (0.55, 0.25, 0.2), (0.72, 0.48, 0.34), (0.6, 0.42, 0.33), (0.78, 0.68, 0.55)])
    wobble = spectral(rng, n, 1.2, 2, 40) * 0.0012
    cells = courses(n, 12, 4, 0.5, wobble)
    tone = 1 + 0.13 * cells.per_cell(rng)
    rough = spectral(rng, n, 0.5, 8) * 0.07 + spectral(rng, n, 1.1, 2) * 0.05
    joint = 1 - smoothstep(0.0035, 0.0075, cells.edge + spectral(rng, n, 0.6, 12) * 0.0009)
    warm = cells.per_cell(rng)[..., None] * np.array([0.02, -0.02, -0.03])
    soot = smoothstep(1.2, 2.2, cells.per_cell(rng) + 0.3 * spectral(rng, n, 1.4, 1))
    color = shade(plain(body, n) + warm, (tone + rough) * (1 - 0.45 * soot))
    mortar = shade(plain(pick(rng, [(0.72, 0.69, 0.63), (0.58, 0.56, 0.53), (0.8, 0.76, 0.7)]), n), 1 + 1.4 * rough)
    height = 0.006 * (1 - joint) + 0.0007 * spectral(rng, n, 0.9, 6)
    return Surface(color=mix(color, mortar, joint), height=height, gloss=np.full((n, n), 0.05))


@kind
def rubble(rng: np.random.Generator, n: int) -> Surface:
    """Field stones set in mortar."""
    cells = voronoi(rng, n, 70, 0.8)
    tones = [
        pick(rng, [(0.55, 0.52, 0.47), (0.5, 0.49, 0.5), (0.63, 0.55, 0.43), (0.45, 0.42, 0.38)]) for _ in range(4)
    ]
    color = ramp(0.5 + 0.33 * cells.per_cell(rng) + 0.06 * spectral(rng, n, 1.0, 3), list(tones))
    grain = spectral(rng, n, 0.45, 10) * 0.08 + spectral(rng, n, 1.2, 3) * 0.09
    joint = 1 - smoothstep(0.003, 0.011, cells.edge + spectral(rng, n, 0.8, 10) * 0.0016)
    color = mix(shade(color, 1 + grain), shade(plain((0.62, 0.58, 0.52), n), 0.9 + grain), joint)
    dome = np.sqrt(np.clip(cells.edge, 0, 0.03) / 0.03)
    height = 0.014 * dome * (1 - joint) + 0.0016 * spectral(rng, n, 1.1, 5)
    return Surface(color=color, height=height, gloss=np.full((n, n), 0.06))


@kind
def ashlar(rng: np.random.Generator, n: int) -> Surface:
    """Cut sandstone or limestone blocks, six courses a tile."""
    body = pick(rng, [(0.76, 0.67, 0.52), (0.7, 0.67, 0.61), (0.66, 0.55, 0.43), (0.58, 0.57, 0.56)])
    cells = courses(n, 6, 3, 0.37, spectral(rng, n, 1.3, 2, 30) * 0.0008)
    strata = spectral(rng, n, 0.9, 2, stretch=0.16)
    grain = spectral(rng, n, 0.4, 16) * 0.05 + strata * 0.06 + spectral(rng, n, 1.3, 1) * 0.05
    joint = 1 - smoothstep(0.002, 0.005, cells.edge + spectral(rng, n, 0.8, 10) * 0.001)
    stain = smoothstep(0.8, 2.5, spectral(rng, n, 1.1, 2, stretch=3.0))
    color = shade(plain(body, n), (1 + 0.09 * cells.per_cell(rng) + grain) * (1 - 0.3 * stain))
    pits = smoothstep(1.7, 2.4, spectral(rng, n, 0.3, 30, 110))
    color = mix(shade(color, 1 - 0.35 * pits), (0.42, 0.38, 0.33), joint * 0.85)
    height = 0.006 * (1 - joint) + 0.0012 * spectral(rng, n, 0.9, 6) - 0.002 * pits
    return Surface(color=color, height=height, gloss=np.full((n, n), 0.05))


@kind
def cobbles(rng: np.random.Generator, n: int) -> Surface:
    """Rounded paving stones with dark joints."""
    cells = voronoi(rng, n, 150, 0.45)
    base = pick(rng, [(0.48, 0.46, 0.44), (0.55, 0.5, 0.43), (0.42, 0.43, 0.46)])
    grain = spectral(rng, n, 0.5, 10) * 0.08 + spectral(rng, n, 1.2, 2) * 0.06
    joint = 1 - smoothstep(0.002, 0.008, cells.edge + spectral(rng, n, 0.8, 12) * 0.001)
    color = shade(plain(base, n), 1 + 0.16 * cells.per_cell(rng) + grain)
    moss = smoothstep(0.4, 1.6, spectral(rng, n, 1.3, 1)) * 0.6
    gap = mix(plain((0.25, 0.22, 0.19), n), (0.3, 0.36, 0.16), moss)
    dome = np.sqrt(np.clip(cells.edge, 0, 0.025) / 0.025)
    height = 0.012 * dome + 0.0009 * spectral(rng, n, 1.0, 8)
    return Surface(color=mix(color, gap, joint), height=height, gloss=0.25 * (1 - joint))


@kind
def plaster(rng: np.random.Generator, n: int) -> Surface:
    """Trowelled plaster with stains, cracks and fine sand."""
    body = pick(rng, [(0.86, 0.81, 0.7), (0.8, 0.7, 0.55), (0.75, 0.8, 0.8), (0.85, 0.74, 0.66), (0.72, 0.77, 0.68)])
    sand = spectral(rng, n, 0.3, 40) * 0.035
    cloud = spectral(rng, n, 1.5, 1) * 0.05
    strokes = warp(spectral(rng, n, 0.9, 6, stretch=0.35), *(spectral(rng, n, 1.6, 1, 8) * 14 for _ in range(2)))
    edge = voronoi(rng, n, 26, 1.0).edge + spectral(rng, n, 1.1, 4) * 0.002
    crack = (1 - smoothstep(0.0005, 0.0022, np.abs(edge))) * smoothstep(0.1, 1.0, spectral(rng, n, 1.5, 1))
    flake = smoothstep(1.55, 1.75, spectral(rng, n, 1.2, 2) + 0.25 * spectral(rng, n, 0.6, 12))
    color = shade(plain(body, n), 1 + sand + cloud + 0.03 * strokes - 0.4 * crack)
    color = mix(color, shade(plain((0.62, 0.52, 0.42), n), 1 + 2.5 * sand), flake * 0.8)
    height = 0.0012 * strokes + 0.0005 * spectral(rng, n, 0.5, 20) - 0.002 * crack - 0.003 * flake
    return Surface(color=color, height=height, gloss=np.full((n, n), 0.05))


@kind
def concrete(rng: np.random.Generator, n: int) -> Surface:
    """Cast concrete: board marks, pores, streaks."""
    boards = courses(n, 8, 1, 0.0)
    grain = spectral(rng, n, 0.4, 16) * 0.04 + spectral(rng, n, 1.4, 1) * 0.08
    pores = smoothstep(1.9, 2.5, spectral(rng, n, 0.4, 25, 100))
    seam = 1 - smoothstep(0.001, 0.003, 0.0625 - np.abs(boards.v))
    streak = smoothstep(0.7, 2.4, spectral(rng, n, 0.9, 3, stretch=5.0))
    color = shade(
        plain(pick(rng, [(0.62, 0.61, 0.58), (0.55, 0.56, 0.58)]), n), 1 + grain + 0.05 * boards.per_cell(rng)
    )
    color = shade(color, (1 - 0.5 * pores) * (1 - 0.2 * seam) * (1 - 0.25 * streak))
    height = 0.0008 * spectral(rng, n, 0.9, 6) - 0.003 * pores - 0.002 * seam
    return Surface(color=color, height=height, gloss=np.full((n, n), 0.1))


@kind
def tiles(rng: np.random.Generator, n: int) -> Surface:
    """Glazed square tiles with a painted ornament, eight a side."""
    count = 8
    cells = courses(n, count, count, 0.0)
    ground, ink = hue(rng.uniform(), 0.12, 0.85), hue(rng.uniform(), rng.uniform(0.35, 0.75), rng.uniform(0.3, 0.6))
    u, v = cells.u * count * 2, cells.v * count * 2
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    petals = float(rng.choice([4, 6, 8]))
    flower = smoothstep(-0.06, 0.06, 0.5 + 0.3 * np.cos(petals * angle) - radius)
    ring = smoothstep(0.1, 0.05, np.abs(radius - rng.uniform(0.75, 1.1)))
    odd = (cells.index // count + cells.index % count) % 2 * (rng.uniform() < 0.6)
    paint = np.abs(np.clip(flower + ring, 0, 1) - odd * 0.85)
    color = mix(plain(ground, n), ink, paint)
    wear = spectral(rng, n, 0.8, 4) * 0.045 + spectral(rng, n, 0.3, 40) * 0.03
    joint = 1 - smoothstep(0.0012, 0.003, cells.edge)
    color = shade(color, 1 + 0.07 * cells.per_cell(rng) + wear)
    color = mix(color, shade(plain((0.66, 0.63, 0.58), n), 1 + 2 * wear), joint)
    tilt = cells.per_cell(rng) * cells.u * 0.02 + cells.per_cell(rng) * cells.v * 0.02
    return Surface(color=color, height=0.002 * (1 - joint) + tilt, gloss=0.75 * (1 - joint))


@kind
def slabs(rng: np.random.Generator, n: int) -> Surface:
    """Large chequered stone slabs, veined, four a side."""
    cells = courses(n, 4, 4, 0.0)
    light, dark = pick(rng, [(0.82, 0.78, 0.7), (0.75, 0.7, 0.62)]), pick(rng, [(0.36, 0.3, 0.26), (0.3, 0.34, 0.36)])
    odd = ((cells.index // 4 + cells.index % 4) % 2).astype(float)
    vein = np.abs(warp(spectral(rng, n, 1.2, 2), *(spectral(rng, n, 1.6, 1, 12) * 20 for _ in range(2))))
    line = 1 - smoothstep(0.02, 0.22, vein)
    joint = 1 - smoothstep(0.0008, 0.0025, cells.edge)
    cloud = spectral(rng, n, 1.1, 2) * 0.07 + spectral(rng, n, 0.3, 30) * 0.035
    color = mix(plain(light, n), dark, odd)
    color = mix(shade(color, 1 + cloud + 0.06 * cells.per_cell(rng)), (0.72, 0.68, 0.6), line * 0.45 * odd + line * 0.2)
    color = mix(color, (0.3, 0.28, 0.25), joint * 0.8)
    return Surface(color=color, height=0.001 * (1 - joint) + 0.0002 * vein, gloss=0.6 * (1 - joint))


@kind
def marble(rng: np.random.Generator, n: int) -> Surface:
    """Polished marble."""
    bend = [spectral(rng, n, 1.5, 1, 16) * 26 for _ in range(2)]
    big, small = np.abs(warp(spectral(rng, n, 1.3, 1), *bend)), np.abs(warp(spectral(rng, n, 0.9, 5), *bend))
    vein = np.clip((1 - smoothstep(0.0, 0.35, big)) + 0.5 * (1 - smoothstep(0.0, 0.3, small)), 0, 1)
    ground, line = pick(rng, [(0.86, 0.84, 0.8), (0.55, 0.6, 0.55), (0.7, 0.5, 0.44)]), (0.35, 0.33, 0.33)
    color = shade(plain(ground, n), 1 + spectral(rng, n, 1.3, 1) * 0.06 + spectral(rng, n, 0.3, 40) * 0.03)
    return Surface(color=mix(color, line, vein * 0.7), height=vein * 0.0002, gloss=np.full((n, n), 0.9))


@kind
def shingles(rng: np.random.Generator, n: int) -> Surface:
    """Roof tiles: overlapping courses, round ends."""
    rows, columns = 10, 10
    cells = courses(n, rows, columns, 0.5)
    body = pick(rng, [(0.62, 0.3, 0.2), (0.4, 0.38, 0.4), (0.55, 0.36, 0.26), (0.36, 0.42, 0.4)])
    u, v = cells.u * columns * 2, cells.v * rows + 0.5
    lip = smoothstep(0.0, 0.12, v - 0.35 * u**4)
    side = smoothstep(0.0, 0.12, 1 - np.abs(u))
    grain = spectral(rng, n, 0.4, 14) * 0.07 + spectral(rng, n, 1.4, 1) * 0.1
    moss = smoothstep(0.9, 2.0, spectral(rng, n, 1.1, 2)) * 0.55
    color = shade(plain(body, n), (1 + 0.15 * cells.per_cell(rng) + grain) * (0.45 + 0.55 * lip * side))
    color = mix(color, shade(plain((0.36, 0.4, 0.2), n), 1 + 2 * grain), moss)
    height = 0.016 * (1 - v) * lip + 0.004 * side + 0.0008 * spectral(rng, n, 0.8, 8)
    return Surface(color=color, height=height, gloss=np.full((n, n), 0.15))


@kind
def metal(rng: np.random.Generator, n: int) -> Surface:
    """Painted metal, scratched and rusting."""
    paint: Color = hue(rng.uniform(), rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.65))
    scratch = smoothstep(1.6, 2.6, spectral(rng, n, 0.5, 12, stretch=0.08)) * 0.5
    rust = smoothstep(0.75, 1.15, spectral(rng, n, 1.1, 2) + 0.3 * spectral(rng, n, 0.5, 14))
    color = shade(plain(paint, n), 1 + 0.06 * spectral(rng, n, 0.9, 3) + 0.04 * spectral(rng, n, 0.3, 30) + scratch)
    red = ramp(0.5 + 0.25 * spectral(rng, n, 0.7, 6), [(0.25, 0.12, 0.08), (0.5, 0.26, 0.12), (0.66, 0.4, 0.2)])
    height = -0.0015 * rust + 0.0008 * rust * spectral(rng, n, 0.5, 16)
    return Surface(color=mix(color, red, rust), height=height, gloss=0.7 * (1 - rust))


@kind
def wallpaper(rng: np.random.Generator, n: int) -> Surface:
    """Printed wallpaper: a motif in diamonds over stripes, slightly worn."""
    count = int(rng.choice([4, 5, 6]))
    h = rng.uniform()
    ground, ink, third = hue(h, 0.22, 0.8), hue(h + 0.04, 0.5, 0.45), hue(h + 0.45, 0.4, 0.7)
    cells = courses(n, count * 2, count, 0.5)
    u, v = cells.u * count * 2, cells.v * count * 4 * 0.5
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    phase, lobes = rng.uniform(0, 3), float(rng.integers(3, 7))
    leaf = smoothstep(-0.05, 0.05, 0.36 + 0.22 * np.sin(lobes * angle + phase + 2.2 * radius) - radius)
    core = smoothstep(-0.04, 0.04, 0.13 - np.abs(radius - 0.2))
    stripe = smoothstep(0.35, 0.5, np.abs(((np.arange(n) + 0.5) / n * count * 2 % 1.0) - 0.5))[None, :] * np.ones(
        (n, 1)
    )
    paper = spectral(rng, n, 0.3, 40) * 0.035 + spectral(rng, n, 1.3, 1) * 0.045
    color = mix(mix(mix(plain(ground, n), third, stripe * 0.18), ink, leaf), third, core)
    height = 0.0004 * leaf + 0.0002 * spectral(rng, n, 0.5, 20)
    return Surface(color=shade(color, 1 + paper), height=height, gloss=0.1 + 0.2 * leaf)
