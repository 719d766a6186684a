"""Things that are built outdoors, and walls with openings: houses, towers, fences, arches, wells, benches.

Axis legend: x right, y back, z up, meters; each thing stands on z = 0 about the origin, its front towards -y.
"""

from itertools import pairwise

import numpy as np

from fw_toy.shapes.mesh import Material, Parts, Patch, place
from fw_toy.shapes.palette import glow, paint
from fw_toy.shapes.solids import box, cone, cylinder, disc, lathe, merge, sheet, sphere

Hole = tuple[float, float, float, float]
"""Left, bottom, right, top of an opening in a wall, meters from the wall's left lower corner."""


def wall_with_holes(
    length: float, height: float, holes: list[Hole], thickness: float = 0.25, cell_m: float = 0.5
) -> Patch:
    """A wall in the x-z plane from the origin along +x, facing -y, with openings that have reveals `thickness` deep."""
    xs = sorted({0.0, length, *[h[0] for h in holes], *[h[2] for h in holes]})
    zs = sorted({0.0, height, *[h[1] for h in holes], *[h[3] for h in holes]})
    pieces = []
    for left, right in pairwise(xs):
        for low, high in pairwise(zs):
            x, z = (left + right) / 2, (low + high) / 2
            if not any(h[0] < x < h[2] and h[1] < z < h[3] for h in holes):
                pieces.append(
                    sheet((left, 0, low), (right - left, 0, 0), (0, 0, high - low), cell_m, uv_origin=(left, low))
                )
    for left, low, right, high in holes:
        t = thickness
        pieces.append(sheet((left, 0, low), (right - left, 0, 0), (0, t, 0), cell_m))
        pieces.append(sheet((left, t, high), (right - left, 0, 0), (0, -t, 0), cell_m))
        pieces.append(sheet((left, 0, low), (0, t, 0), (0, 0, high - low), cell_m))
        pieces.append(sheet((right, t, low), (0, -t, 0), (0, 0, high - low), cell_m))
    return merge(pieces)


def window_frame(hole: Hole, recess: float, bars: int = 2) -> list[Patch]:
    """Frame and glazing bars of a window set `recess` behind the wall's face."""
    left, low, right, high = hole
    bar, x, z = 0.06, (left + right) / 2, (low + high) / 2
    pieces = [box((right - left, 0.05, bar), (x, recess, h)) for h in (low + bar / 2, high - bar / 2)]
    pieces += [box((bar, 0.05, high - low), (h, recess, z), upright=True) for h in (left + bar / 2, right - bar / 2)]
    pieces.append(box((bar * 0.6, 0.04, high - low), (x, recess, z)))
    pieces += [
        box((right - left, 0.04, bar * 0.5), (x, recess, low + (high - low) * (i + 1) / (bars + 1)))
        for i in range(bars)
    ]
    pieces.append(box((right - left + 0.16, 0.26, 0.05), (x, recess - 0.16, low - 0.02)))
    return pieces


def house(rng: np.random.Generator, size: tuple[float, float, float], material: Material) -> Parts:
    """A gabled house with windows, a door, a plinth and a chimney; `size` is width, depth, height of the walls."""
    width, depth, height = size
    frame, roof = paint(rng, "boards", "wood"), paint(rng, "shingles", "shingles", "straw")
    pane = paint(rng, "metal", tint=(0.12, 0.15, 0.2), gloss=1.2, tile_m=2.0)
    storeys = max(1, round(height / 2.8))
    parts: Parts = []
    turns = [
        (0.0, width, depth / 2),
        (np.pi / 2, depth, width / 2),
        (np.pi, width, depth / 2),
        (-np.pi / 2, depth, width / 2),
    ]
    for side, (yaw, length, reach) in enumerate(turns):
        holes, door = _openings(rng, length, height, storeys, side == 0)
        pieces: Parts = [(wall_with_holes(length, height, holes, 0.22, 0.6), material)]
        for hole in holes:
            if hole is door:
                leaf = box(
                    (hole[2] - hole[0], 0.06, hole[3] - hole[1]),
                    ((hole[0] + hole[2]) / 2, 0.18, (hole[1] + hole[3]) / 2),
                )
                step = box((hole[2] - hole[0] + 0.5, 0.5, 0.16), ((hole[0] + hole[2]) / 2, -0.25, 0.08))
                pieces += [(leaf, paint(rng, "boards", tile_m=1.0)), (step, paint(rng, "ashlar"))]
            else:
                pieces.append((merge(window_frame(hole, 0.12)), frame))
                back = sheet((hole[0], 0.2, hole[1]), (hole[2] - hole[0], 0, 0), (0, 0, hole[3] - hole[1]))
                pieces.append((back, pane))
        parts += place(place(pieces, (-length / 2, -reach, 0)), yaw_rad=yaw)
    parts += _gable_roof(width, depth, height, rng.uniform(0.55, 0.9), roof, material, frame)
    chimney = box((0.5, 0.5, 1.6), (width * 0.27, depth * 0.12, height + depth * 0.28), 0.4)
    plinth = box((width + 0.12, depth + 0.12, 0.9), (0, 0, 0.0), 0.6)
    return [*parts, (chimney, paint(rng, "brick")), (plinth, paint(rng, "rubble", "ashlar"))]


def tower(rng: np.random.Generator, radius: float, height: float) -> Parts:
    """A round tower with a pointed roof."""
    wall, roof = paint(rng, "rubble", "ashlar", "brick"), paint(rng, "shingles")
    body = lathe([(radius * (1.05 - 0.05 * a), height * a) for a in np.linspace(0, 1, 10)], 28)
    rim = lathe([(radius, height - 0.4), (radius + 0.25, height - 0.2), (radius + 0.25, height + 0.2)], 28)
    hat = cone(radius + 0.45, radius * 2.2, 28, 6).moved((0, 0, height + 0.15))
    slits = [
        box((0.3, 0.2, 0.9), (0, -radius, z)).moved(yaw_rad=a)
        for z, a in zip(np.arange(1.8, height - 1, 2.2), rng.uniform(-1, 1, 9), strict=False)
    ]
    parts: Parts = [(merge([body, rim]), wall), (hat, roof)]
    return [*parts, (merge(slits), paint(rng, "wood", tint=(0.2, 0.18, 0.16)))] if slits else parts


def fence(rng: np.random.Generator, length: float, height: float = 1.0) -> Parts:
    """A picket or rail fence from the origin along +x."""
    wood = paint(rng, "boards", "wood", tile_m=1.2)
    posts = [
        box((0.11, 0.11, height + 0.15), (x, 0, (height + 0.15) / 2))
        for x in np.linspace(0, length, max(2, int(length / 1.8)) + 1)
    ]
    rails = [box((length, 0.04, 0.1), (length / 2, -0.05, z), 0.8) for z in (height * 0.35, height * 0.82)]
    pickets: list[Patch] = []
    if rng.uniform() < 0.6:
        tall = height * rng.uniform(0.9, 1.0, int(length / 0.19))
        pickets = [box((0.1, 0.025, h), (0.1 + 0.19 * i, -0.085, h / 2 + 0.06), 1.3, True) for i, h in enumerate(tall)]
    return [(merge(posts + rails + pickets), wood)]


def stone_wall(rng: np.random.Generator, length: float | int, height: float) -> Parts:
    """A low stone wall from the origin along +x with a coping."""
    body = box((length, 0.4, height), (length / 2, 0, height / 2), 0.4)
    cap = box((length + 0.06, 0.5, 0.1), (length / 2, 0, height + 0.05), 0.4)
    return [(body, paint(rng, "rubble", "brick", "ashlar")), (cap, paint(rng, "ashlar", "concrete"))]


def arch(rng: np.random.Generator, span: float, height: float, thickness: float = 0.7) -> Parts:
    """A round arch on two piers, in the x-z plane."""
    stone = paint(rng, "ashlar", "brick", "rubble")
    pier = 0.6 * thickness + 0.3
    spring = max(height - span / 2, 0.5)
    pieces = [box((pier, thickness, spring), (s * (span + pier) / 2, 0, spring / 2), 0.4) for s in (-1, 1)]
    pieces += [box((pier + 0.16, thickness + 0.16, 0.16), (s * (span + pier) / 2, 0, spring), 0.4) for s in (-1, 1)]
    inner, outer = span / 2, span / 2 + pier
    steps = np.linspace(0, np.pi, 15)
    for a, b in pairwise(steps):
        corners = [np.array([np.cos(t) * r, np.sin(t) * r + spring]) for r in (inner, outer) for t in (a, b)]
        (i0, i1, o0, o1), h = corners, thickness / 2
        for y, flip in ((-h, False), (h, True)):
            first, second = (i1, i0) if not flip else (i0, i1)
            third, fourth = (o0, o1) if not flip else (o1, o0)
            quad = [first, second, third, fourth]
            points = np.array([[p[0], y, p[1]] for p in quad])
            normal = np.tile([0.0, -1.0 if y < 0 else 1.0, 0.0], (4, 1))
            pieces.append(
                Patch(
                    vertices=points, normals=normal, uv=points[:, [0, 2]].copy(), faces=np.array([[0, 1, 2], [0, 2, 3]])
                )
            )
        pieces.append(_strip(i0, i1, h, inward=True))
        pieces.append(_strip(o0, o1, h, inward=False))
    return [(merge(pieces), stone)]


def column(rng: np.random.Generator, height: float, radius: float) -> Parts:
    """A column with base and capital."""
    shaft = lathe([(radius * (1 - 0.15 * a), 0.25 + (height - 0.5) * a) for a in np.linspace(0, 1, 7)], 20)
    blocks = [box((radius * 2.8, radius * 2.8, 0.25), (0, 0, z)) for z in (0.125, height - 0.125)]
    rings = [lathe([(radius, z - 0.06), (radius * 1.25, z), (radius, z + 0.06)], 20) for z in (0.31, height - 0.31)]
    return [(merge([shaft, *blocks, *rings]), paint(rng, "marble", "ashlar", "rock"))]


def bench(rng: np.random.Generator) -> Parts:
    """A garden bench."""
    wood, legs = paint(rng, "boards", "wood"), paint(rng, "metal", "concrete", "ashlar")
    slats = [box((1.6, 0.11, 0.04), (0, y, 0.46), 0.5) for y in (-0.2, -0.07, 0.06)]
    slats += [box((1.6, 0.03, 0.11), (0, 0.17, z), 0.5) for z in (0.62, 0.76, 0.9)]
    feet = [box((0.1, 0.42, 0.44), (s * 0.62, -0.04, 0.22)) for s in (-1, 1)]
    feet += [box((0.08, 0.06, 0.95), (s * 0.62, 0.2, 0.475)) for s in (-1, 1)]
    return [(merge(slats), wood), (merge(feet), legs)]


def well(rng: np.random.Generator) -> Parts:
    """A stone well with a little roof."""
    ring = lathe([(0.75, 0), (0.75, 0.4), (0.75, 0.8), (0.55, 0.8), (0.55, 0.1)], 24)
    posts = [box((0.12, 0.12, 1.5), (s * 0.72, 0, 1.4), upright=True) for s in (-1, 1)]
    bar = box((1.5, 0.08, 0.08), (0, 0, 1.75))
    slopes = _gable_roof(1.9, 1.3, 2.1, 0.7, paint(rng, "shingles", "straw"), paint(rng, "boards"), paint(rng, "wood"))
    water = disc(0.56, 0.25, 20)
    return [
        (ring, paint(rng, "rubble", "brick")),
        (merge([*posts, bar]), paint(rng, "wood")),
        (water, paint(rng, "metal", tint=(0.1, 0.14, 0.16), gloss=1.0)),
        *slopes,
    ]


def barrel(rng: np.random.Generator) -> Parts:
    """A barrel with hoops."""
    body = lathe([(0.27, 0), (0.33, 0.25), (0.35, 0.45), (0.33, 0.65), (0.27, 0.9)], 20)
    hoops = [lathe([(r + 0.012, z), (r + 0.02, z + 0.05)], 20) for r, z in ((0.3, 0.1), (0.345, 0.38), (0.32, 0.7))]
    wood = paint(rng, "boards", tile_m=1.1)
    return [(merge([body, disc(0.26, 0.87, 20)]), wood), (merge(hoops), paint(rng, "metal"))]


def lamp_post(rng: np.random.Generator) -> Parts:
    """A street lamp."""
    pole = merge(
        [
            lathe([(0.14, 0), (0.12, 0.3), (0.05, 0.4), (0.045, 2.6), (0.09, 2.7)], 14),
            cone(0.26, 0.22, 14, 1).moved((0, 0, 3.12)),
        ]
    )
    return [
        (pole, paint(rng, "metal", tint=(0.5, 0.5, 0.5))),
        (sphere(0.2, 14, 10).moved((0, 0, 2.9)), glow((1.0, 0.9, 0.7), 1.0)),
    ]


def haystack(rng: np.random.Generator) -> Parts:
    """Round bales of straw."""
    bale = cylinder(0.6, 1.1, 24, 3)
    lie = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    straw = paint(rng, "straw")
    return [(bale.mapped(lie, np.array([x, -0.55, z])), straw) for x, z in ((-0.62, 0.6), (0.62, 0.6), (0.0, 1.62))]


def _openings(
    rng: np.random.Generator, length: float, height: float, storeys: int, front: bool
) -> tuple[list[Hole], Hole | None]:
    columns = max(1, int(length / 2.3))
    door_at = int(rng.integers(columns)) if front else -1
    holes, door = [], None
    for storey in range(storeys):
        for i in range(columns):
            middle = (i + 0.5) / columns * length
            if storey == 0 and i == door_at:
                door = (middle - 0.5, 0.12, middle + 0.5, 2.2)
                holes.append(door)
            elif rng.uniform() < 0.8:
                low = 0.95 + storey * 2.7
                holes.append((middle - 0.45, low, middle + 0.45, min(low + 1.25, height - 0.2)))
    return holes, door


def _gable_roof(
    width: float, depth: float, height: float, slope: float, roof: Material, wall: Material, trim: Material
) -> Parts:
    over, rise = 0.4, depth / 2 * slope
    run, drop = depth / 2 + over, (depth / 2 + over) * slope
    low = height + rise - drop
    wide = width + 2 * over
    front = sheet((-wide / 2, -run, low), (wide, 0, 0), (0, run, drop), 0.7)
    back = sheet((wide / 2, run, low), (-wide, 0, 0), (0, -run, drop), 0.7)
    under = [
        Patch(vertices=p.vertices - [0, 0, 0.14], normals=-p.normals, uv=p.uv, faces=p.faces[:, ::-1])
        for p in (front, back)
    ]
    rims = []
    for s in (-1, 1):
        rims.append(sheet((s * wide / 2, -run * s, low - 0.14), (0, run * s, drop), (0, 0, 0.14)))
        rims.append(sheet((s * wide / 2, 0, low + drop - 0.14), (0, run * s, -drop), (0, 0, 0.14)))
    rims.append(sheet((-wide / 2, -run, low - 0.14), (wide, 0, 0), (0, 0, 0.14)))
    rims.append(sheet((wide / 2, run, low - 0.14), (-wide, 0, 0), (0, 0, 0.14)))
    gables = []
    for s in (-1.0, 1.0):
        points = np.array(
            [
                [s * width / 2, -depth / 2 * s, height],
                [s * width / 2, depth / 2 * s, height],
                [s * width / 2, 0, height + rise],
            ]
        )
        gables.append(
            Patch(
                vertices=points,
                normals=np.tile([s, 0.0, 0.0], (3, 1)),
                uv=points[:, 1:].copy(),
                faces=np.array([[0, 1, 2]]),
            )
        )
    return [(merge([front, back]), roof), (merge(under + rims), trim), (merge(gables), wall)]


def _strip(a: np.ndarray, b: np.ndarray, half: float, inward: bool) -> Patch:
    points = np.array([[a[0], -half, a[1]], [a[0], half, a[1]], [b[0], half, b[1]], [b[0], -half, b[1]]])
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    normal /= np.linalg.norm(normal)
    length = float(np.linalg.norm(b - a))
    outward = normal @ np.array([a[0] + b[0], 0.0, 1e-3])
    turn = (outward > 0) == inward
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    start = float(np.arctan2(a[1], a[0]))
    uv = np.array([[start, -half], [start, half], [start + length, half], [start + length, -half]])
    return Patch(
        vertices=points,
        normals=np.tile(-normal if turn else normal, (4, 1)),
        uv=uv,
        faces=faces[:, ::-1] if turn else faces,
    )
