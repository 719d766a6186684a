"""Things that stand in rooms, each about the origin on z = 0, its front towards -y.

Axis legend: x right, y back, z up, meters. Every function returns parts: patches with materials.
"""

import numpy as np

from fw_toy.shapes.mesh import Parts, Patch, Rgb, place
from fw_toy.shapes.palette import glow, paint
from fw_toy.shapes.solids import blades, box, cylinder, disc, lathe, lump, merge, sheet, sphere


def table(rng: np.random.Generator, size: tuple[float, float, float]) -> Parts:
    """A four-legged or a round table."""
    width, depth, height = size
    top, leg = paint(rng, "wood", "marble", "wood"), paint(rng, "wood", "metal")
    if rng.uniform() < 0.35:
        radius = min(width, depth) / 2
        profile = [(radius * 0.55, 0.0), (radius * 0.5, 0.04), (0.07, 0.1), (0.05, height * 0.5), (0.09, height - 0.04)]
        plate = cylinder(radius, 0.045, 28, 1).moved((0, 0, height - 0.045))
        return [(plate, top), (lathe(profile, 16), leg)]
    inset, thick = 0.06, 0.07
    legs = [
        box(
            (thick, thick, height - 0.05),
            (sx * (width / 2 - inset), sy * (depth / 2 - inset), (height - 0.05) / 2),
            0.4,
        )
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    apron = [box((width - 0.15, 0.025, 0.09), (0, sy * (depth / 2 - inset), height - 0.095)) for sy in (-1, 1)]
    return [(box((width, depth, 0.05), (0, 0, height - 0.025), 0.25), top), (merge(legs + apron), leg)]


def chair(rng: np.random.Generator) -> Parts:
    """A chair facing -y."""
    wood, seat = paint(rng, "wood"), paint(rng, "fabric", "wood")
    legs = [box((0.045, 0.045, 0.45), (sx * 0.19, sy * 0.19, 0.225), upright=True) for sx in (-1, 1) for sy in (-1, 1)]
    posts = [box((0.04, 0.04, 0.55), (sx * 0.19, 0.19, 0.72), upright=True) for sx in (-1, 1)]
    slats = [box((0.36, 0.025, 0.07), (0, 0.19, z)) for z in (0.62, 0.76, 0.92)]
    return [(merge(legs + posts + slats), wood), (box((0.45, 0.45, 0.05), (0, 0, 0.47), 0.25), seat)]


def sofa(rng: np.random.Generator, width: float = 1.9) -> Parts:
    """A sofa facing -y with cushions."""
    cloth, pillow = paint(rng, "fabric"), paint(rng, "fabric", tile_m=0.4)
    body = [
        box((width, 0.85, 0.3), (0, 0, 0.25), 0.3),
        box((width, 0.2, 0.5), (0, 0.36, 0.6), 0.3),
        box((0.2, 0.85, 0.3), (-width / 2 + 0.1, 0, 0.5), 0.3),
        box((0.2, 0.85, 0.3), (width / 2 - 0.1, 0, 0.5), 0.3),
    ]
    seats = [box(((width - 0.44) / 2, 0.6, 0.14), (s * (width - 0.42) / 4, -0.08, 0.46), 0.3) for s in (-1, 1)]
    cushions = [
        lump(rng, (0.2, 0.09, 0.18), 0.05, 2).moved((s * (width / 2 - 0.4), 0.16, 0.68), s * 0.2) for s in (-1, 1)
    ]
    feet = [box((0.07, 0.07, 0.1), (sx * (width / 2 - 0.1), sy * 0.35, 0.05)) for sx in (-1, 1) for sy in (-1, 1)]
    return [(merge(body + seats), cloth), (merge(cushions), pillow), (merge(feet), paint(rng, "wood"))]


def bookshelf(rng: np.random.Generator, width: float, height: float) -> Parts:
    """A shelf full of books and pots, its back at y = 0.3 (depth 0.3), facing -y."""
    depth, board = 0.3, 0.03
    wood = paint(rng, "wood")
    count = max(2, round(height / 0.38))
    step = (height - board) / count
    frame = [box((board, depth, height), (s * (width - board) / 2, depth / 2, height / 2), 0.4, True) for s in (-1, 1)]
    frame += [box((width, depth, board), (0, depth / 2, board / 2 + i * step), 0.3) for i in range(count + 1)]
    frame.append(box((width, 0.015, height), (0, depth - 0.008, height / 2), 0.4))
    parts: Parts = [(merge(frame), wood)]
    for i in range(count):
        left, bottom = -width / 2 + board, board + i * step
        while left < width / 2 - 0.25:
            run = float(min(rng.uniform(0.25, 0.7), width / 2 - board - left))
            if rng.uniform() < 0.78:
                tall = (step - board) * rng.uniform(0.78, 0.93)
                front = sheet((left, 0.05, bottom), (run, 0, 0), (0, 0, tall), 0.2, fit_uv=True)
                front = Patch(
                    vertices=front.vertices, normals=front.normals, faces=front.faces, uv=front.uv * [run / 0.9, 1]
                )
                cover = box(
                    (run, depth - 0.08, tall), (left + run / 2, depth / 2 + 0.015, bottom + tall / 2 - 0.004), 0.3
                )
                parts += [(front, paint(rng, "books")), (cover, paint(rng, "paper", tint=(0.6, 0.55, 0.45)))]
            else:
                parts += place(vase(rng, 0.5 * (step - board), 0.07), (left + run / 2, depth / 2, bottom))
            left += run + 0.02
    return parts


def cabinet(rng: np.random.Generator, size: tuple[float, float, float]) -> Parts:
    """A chest of drawers, its back at y = depth, facing -y."""
    width, depth, height = size
    body, front, knob = paint(rng, "wood"), paint(rng, "wood", "boards"), paint(rng, "metal")
    rows, columns = max(2, round(height / 0.28)), max(1, round(width / 0.6))
    panels, knobs = [], []
    w, h = (width - 0.06) / columns, (height - 0.14) / rows
    for i in range(rows):
        for j in range(columns):
            x, z = -width / 2 + 0.03 + (j + 0.5) * w, 0.1 + (i + 0.5) * h
            panels.append(box((w - 0.03, 0.03, h - 0.03), (x, -0.01, z), 0.3))
            knobs.append(sphere(0.022, 8, 6).moved((x, -0.045, z)))
    shell = [box((width, depth, height - 0.1), (0, depth / 2, 0.05 + height / 2), 0.3)]
    shell += [box((width + 0.04, depth + 0.03, 0.03), (0, depth / 2 - 0.015, height + 0.015), 0.3)]
    shell += [box((0.08, 0.08, 0.1), (sx * (width / 2 - 0.06), depth / 2 + sy * (depth / 2 - 0.06), 0.05))
              for sx in (-1, 1) for sy in (-1, 1)]  # fmt: skip
    return [(merge(shell), body), (merge(panels), front), (merge(knobs), knob)]


def bed(rng: np.random.Generator) -> Parts:
    """A bed with its head at +y."""
    wood, sheet_, blanket = paint(rng, "wood"), paint(rng, "fabric", tile_m=1.2), paint(rng, "fabric", tile_m=0.9)
    frame = [box((1.5, 2.1, 0.25), (0, 0, 0.22), 0.35), box((1.6, 0.07, 1.0), (0, 1.08, 0.5), 0.35)]
    frame += [box((1.6, 0.07, 0.5), (0, -1.08, 0.25), 0.35)]
    pillows = [lump(rng, (0.32, 0.2, 0.1), 0.05, 2).moved((s * 0.38, 0.78, 0.58)) for s in (-1, 1)]
    mattress = merge([box((1.44, 2.04, 0.2), (0, 0, 0.42), 0.3), *pillows])
    cover = box((1.52, 1.35, 0.24), (0, -0.36, 0.43), 0.2)
    return [(merge(frame), wood), (mattress, sheet_), (cover, blanket)]


def vase(rng: np.random.Generator, height: float, radius: float) -> Parts:
    """A turned vase or jar."""
    z = np.linspace(0, 1, 9)
    belly = 0.62 + 0.38 * np.sin(np.pi * (z * rng.uniform(0.8, 1.2) + rng.uniform(-0.1, 0.15)))
    neck = 1 - rng.uniform(0.2, 0.55) * np.exp(-(((z - 0.82) / 0.1) ** 2))
    profile = [(float(radius * b * n), float(height * h)) for b, n, h in zip(belly, neck, z, strict=True)]
    inside = [(r * 0.9, h) for r, h in profile[::-1][:4]]
    return [(lathe([(0.001, 0.0), *profile, *inside], 18), paint(rng, "pottery", "marble", "metal", gloss=0.8))]


def plant(rng: np.random.Generator, height: float) -> Parts:
    """A potted plant with arching leaves."""
    pot_height = min(0.4, height * 0.35)
    pot = lathe(
        [(0.09, 0), (0.15, pot_height), (0.165, pot_height), (0.165, pot_height + 0.03), (0.13, pot_height)], 18
    )
    soil = disc(0.14, pot_height - 0.02, 16)
    count = int(rng.integers(60, 130))
    azimuth, lift = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.25, 1.4, count)
    stem = (height - pot_height) * rng.uniform(0.1, 0.75, count)
    out = np.stack([np.cos(azimuth) * np.cos(lift), np.sin(azimuth) * np.cos(lift), np.sin(lift)], -1)
    root = np.stack([0 * stem, 0 * stem, pot_height + stem * 0.8], -1) + 0.06 * out
    length = rng.uniform(0.16, 0.38, count) * height
    middle = root + out * length[:, None]
    tip = middle + (out * [1, 1, 0.2] - [0, 0, 0.5]) * length[:, None] * 0.6
    normal = np.stack([-np.cos(azimuth) * np.sin(lift), -np.sin(azimuth) * np.sin(lift), np.cos(lift)], -1)
    width = length * rng.uniform(0.22, 0.4, count)
    leaves = merge(
        [blades(root, middle, width * 0.8, normal), blades(middle - 0.3 * (middle - root), tip, width, normal)]
    )
    trunk = cylinder(0.018, height * 0.75, 8, 1)
    green = paint(rng, "leaves", tile_m=0.8, translucency=0.5, variant=1)
    return [(pot, paint(rng, "pottery")), (soil, paint(rng, "dirt")), (leaves, green), (trunk, paint(rng, "bark"))]


def floor_lamp(rng: np.random.Generator, color: Rgb, height: float = 1.6) -> Parts:
    """A lamp on a pole with a glowing shade."""
    pole = merge([cylinder(0.16, 0.03, 18, 1), cylinder(0.018, height - 0.1, 8, 1)])
    shade = lathe([(0.23, height - 0.32), (0.14, height)], 22)
    return [(pole, paint(rng, "metal")), (shade, glow(color, 1.1))]


def pendant(rng: np.random.Generator, color: Rgb, ceiling: float, drop: float) -> Parts:
    """A lamp hung from the ceiling."""
    cord = cylinder(0.012, drop, 6, 1).moved((0, 0, ceiling - drop))
    shade = lathe([(0.26, ceiling - drop - 0.2), (0.2, ceiling - drop - 0.08), (0.05, ceiling - drop)], 22)
    bulb = sphere(0.07, 12, 8).moved((0, 0, ceiling - drop - 0.16))
    return [(cord, paint(rng, "metal")), (shade, paint(rng, "metal", "pottery")), (bulb, glow(color, 9.0))]


def image(rng: np.random.Generator, width: float, height: float) -> Parts:
    """A framed painting in the x-z plane about the origin, facing -y."""
    canvas = sheet((-width / 2, -0.02, -height / 2), (width, 0, 0), (0, 0, height), 0.4, fit_uv=True)
    bar = 0.05
    frame = [box((width + 2 * bar, 0.05, bar), (0, -0.015, s * (height + bar) / 2), 0.4) for s in (-1, 1)]
    frame += [box((bar, 0.05, height), (s * (width + bar) / 2, -0.015, 0), 0.4) for s in (-1, 1)]
    return [(canvas, paint(rng, "painting")), (merge(frame), paint(rng, "wood", "metal"))]


def still_life(rng: np.random.Generator, width: float, depth: float) -> Parts:
    """Small things for the top of a table: jars, balls, books, a bowl."""
    parts: Parts = []
    for i in range(int(rng.integers(3, 6))):
        x, y = (i + 0.5 - 2) / 4 * width * 0.75 + rng.normal(0, 0.03), rng.uniform(-0.3, 0.3) * depth
        which = rng.uniform()
        if which < 0.45:
            thing = vase(rng, rng.uniform(0.14, 0.36), rng.uniform(0.06, 0.11))
        elif which < 0.65:
            radius = float(rng.uniform(0.05, 0.1))
            thing = [(sphere(radius).moved((0, 0, radius)), paint(rng, "marble", "pottery", "wood", tile_m=0.4))]
        else:
            sizes = [rng.uniform((0.14, 0.2, 0.025), (0.2, 0.27, 0.05)) for _ in range(int(rng.integers(1, 5)))]
            heights = np.cumsum([0.0] + [float(s[2]) for s in sizes])
            thing = [
                (
                    box(s, (0, 0, z + s[2] / 2)).moved(yaw_rad=rng.normal(0, 0.2)),
                    paint(rng, "fabric", "paper", tile_m=0.3),
                )
                for s, z in zip(sizes, heights, strict=False)
            ]
        parts += place(thing, (x, y, 0), rng.uniform(0, 6.28))
    return parts


def sculpture(rng: np.random.Generator) -> Parts:
    """A pile of turned and lumpy forms."""
    stone = paint(rng, "marble", "rock", "metal", tile_m=0.8)
    pieces, z = [], 0.0
    for i in range(int(rng.integers(2, 4))):
        size = float(rng.uniform(0.12, 0.2)) * 0.85**i
        which = rng.uniform()
        if which < 0.4:
            pieces.append(lump(rng, (size, size * 0.8, size * 1.1), 0.18, 3).moved((0, 0, z + size)))
        elif which < 0.7:
            pieces.append(sphere(size).moved((0, 0, z + size)))
        else:
            pieces.append(
                box((size * 1.6, size * 1.6, size * 1.9), (0, 0, z + size * 0.95), 0.2).moved(yaw_rad=rng.uniform(0, 3))
            )
        z += size * 1.8
    return [(merge(pieces), stone)]


def crates(rng: np.random.Generator) -> Parts:
    """Wooden crates on top of each other."""
    parts, z = [], 0.0
    for i in range(int(rng.integers(1, 4))):
        size = float(rng.uniform(0.35, 0.55)) * 0.92**i
        wood = paint(rng, "boards", "wood", tile_m=0.8)
        slats = [box((size, size, size), (0, 0, size / 2), 0.3)]
        slats += [box((size * 1.04, size * 1.04, 0.06), (0, 0, h * size), 0.3) for h in (0.06, 0.94)]
        parts += place([(merge(slats), wood)], (0, 0, z), rng.normal(0, 0.25))
        z += size + 0.004
    return parts
