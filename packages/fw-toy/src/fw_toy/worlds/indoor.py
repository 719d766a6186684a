"""Rooms: walls with windows and a door, furniture along the walls and in the middle, lamps and daylight.

Axis legend: the room spans x in [-width/2, width/2], y in [-depth/2, depth/2], z from 0 (floor) to its height, meters.
"""

from dataclasses import dataclass

import numpy as np

from fw_toy.rendering.lights import Light, Lighting, Sky, sun
from fw_toy.shapes import furniture
from fw_toy.shapes.buildings import Hole, wall_with_holes, window_frame
from fw_toy.shapes.mesh import Builder, Parts, Rgb, place
from fw_toy.shapes.nature import backdrop
from fw_toy.shapes.palette import paint
from fw_toy.shapes.solids import box, merge, sheet
from fw_toy.worlds.scene import Blueprint

_ROOMS = (
    ("living room", ("planks", "planks", "slabs"), ("wallpaper", "plaster", "brick")),
    ("study", ("planks",), ("wallpaper", "plaster")),
    ("bedroom", ("planks", "planks", "tiles"), ("wallpaper", "plaster")),
    ("kitchen", ("tiles", "slabs"), ("plaster", "tiles")),
    ("gallery", ("planks", "marble", "slabs"), ("plaster", "concrete")),
    ("cellar", ("cobbles", "slabs", "concrete"), ("rubble", "brick", "ashlar")),
)
_WARM: tuple[Rgb, ...] = ((1.0, 0.78, 0.5), (1.0, 0.84, 0.62), (1.0, 0.7, 0.42))


@dataclass(frozen=True, kw_only=True)
class _Wall:
    """One wall seen from inside: where furniture can stand with its back to it."""

    yaw_rad: float
    """Turn of things that stand at it."""
    reach_m: float
    """Distance from the room's middle."""
    length_m: float
    """Length in meters."""
    holes: tuple[Hole, ...]
    """Its windows, from its left lower corner."""

    def windowed(self, middle_m: float, span_m: float) -> bool:
        """Whether a window is behind a stretch given by its middle (from the wall's middle) and length."""
        at = middle_m + self.length_m / 2
        return any(hole[0] - 0.1 < at + span_m / 2 and hole[2] + 0.1 > at - span_m / 2 for hole in self.holes)


def indoor(rng: np.random.Generator) -> Blueprint:
    """A furnished room in daylight or lamplight."""
    name, floors, walls = _ROOMS[int(rng.integers(len(_ROOMS)))]
    width, depth, height = rng.uniform(5.0, 7.5), rng.uniform(4.5, 6.5), rng.uniform(2.6, 3.3)
    builder, lamps = Builder(), []
    night = rng.uniform() < 0.3
    sides = _shell(rng, builder, (width, depth, height), floors, walls)
    if name == "gallery":
        _exhibits(rng, builder, width, depth)
    else:
        lamps += _middle(rng, builder, name, height)
    lamps += [lamp for side in sides for lamp in _along_wall(rng, builder, name, side, height)]
    if not lamps or night or rng.uniform() < 0.4:
        lamps.append(_hang(rng, builder, rng.uniform(-1, 1), rng.uniform(-0.8, 0.8), height))
    lights = [Light(position=at, color=_times(c, 2.6 if night else 1.5), radius=0.12) for at, c in lamps]
    if night:
        sky = Sky(zenith=(0.01, 0.02, 0.06), horizon=(0.05, 0.06, 0.12), cloud=(0.06, 0.06, 0.08), brightness=0.8)
    else:
        sky = Sky(cover=rng.uniform(0.2, 0.7), shift=tuple(rng.uniform(0, 1, 2)), brightness=1.7)
        lights.append(sun(rng.uniform(0.35, 2.8), rng.uniform(0.45, 0.75), (9.0, 8.0, 6.6), radius=6.0))
    time = "lamplit" if night else "sunlit"
    margin = np.array([0.55, 0.55, 0.7])
    return Blueprint(
        kind="indoor",
        builder=builder,
        lighting=Lighting(sky=sky, lights=tuple(lights)),
        setting=f"a {time} {name}",
        focus=np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.8), 0.9]),
        low=np.array([-width / 2, -depth / 2, 0.0]) + margin,
        high=np.array([width / 2, depth / 2, height]) - margin,
    )


def _shell(
    rng: np.random.Generator,
    builder: Builder,
    size: tuple[float, float, float],
    floors: tuple[str, ...],
    walls: tuple[str, ...],
) -> list[_Wall]:
    """Floor, ceiling, walls with windows, beams and the garden outside; returns the walls."""
    width, depth, height = size
    w, d = width / 2, depth / 2
    builder.add("", [(sheet((-w, -d, 0), (width, 0, 0), (0, depth, 0), 0.3), paint(rng, *floors, gloss=0.7))])
    ceiling = sheet((-w, d, height), (width, 0, 0), (0, -depth, 0), 0.4)
    builder.add("", [(ceiling, paint(rng, "plaster", "plaster", "planks", tint=(1.1, 1.08, 1.05)))])
    wall = paint(rng, *walls)
    other = paint(rng, *walls) if rng.uniform() < 0.3 else wall
    frame = paint(rng, "wood", "boards")
    sides = [((-w, d), (1, 0), width), ((w, d), (0, -1), depth), ((w, -d), (-1, 0), width), ((-w, -d), (0, 1), depth)]
    made = []
    for index, ((x, y), (dx, dy), length) in enumerate(sides):
        holes: list[Hole] = []
        if index in (0, 1, 3) and rng.uniform() < (0.9 if index == 0 else 0.55):
            count = int(rng.integers(1, 3))
            wide = min(1.3, length / count * 0.5)
            centers = [(i + 0.5) / count * length for i in range(count)]
            holes = [(c - wide / 2, 0.85, c + wide / 2, min(2.25, height - 0.3)) for c in centers]
        yaw = float(np.arctan2(dy, dx))
        parts: Parts = [(wall_with_holes(length, height, holes, 0.22, 0.35), other if index == 0 else wall)]
        parts.append((box((length, 0.03, 0.12), (length / 2, -0.015, 0.06)), frame))
        builder.add("", place(parts, (x, y, 0), yaw))
        for hole in holes:
            panes = [(merge(window_frame(hole, 0.16)), frame)]
            builder.add("a tall window", place(panes, (x, y, 0), yaw))
        reach = depth / 2 if index % 2 == 0 else width / 2
        made.append(_Wall(yaw_rad=yaw, reach_m=reach, length_m=length, holes=tuple(holes)))
    if rng.uniform() < 0.45:
        beam = paint(rng, "wood", tile_m=1.4)
        beams = [box((0.16, depth, 0.18), (x, 0, height - 0.09), 0.4) for x in np.arange(-w + 0.6, w - 0.3, 1.3)]
        builder.add("ceiling beams", [(merge(beams), beam)])
    builder.add("", backdrop(rng, -0.6))
    return made


def _middle(rng: np.random.Generator, builder: Builder, name: str, height: float) -> list[tuple[Rgb, Rgb]]:
    """The rug and the things on it; returns lamps (place, color)."""
    rx, ry = rng.uniform(2.0, 3.2), rng.uniform(1.6, 2.4)
    rug = sheet((-rx / 2, -ry / 2, 0.012), (rx, 0, 0), (0, ry, 0), 0.3, fit_uv=True)
    builder.add("a patterned rug", place([(rug, paint(rng, "rug", gloss=0.1))], yaw_rad=rng.normal(0, 0.1)))
    if name == "bedroom":
        builder.add("a bed", place(furniture.bed(rng), (rng.uniform(-0.6, 0.6), 0.6, 0), rng.normal(0, 0.05)))
        return []
    tall = 0.45 if name == "living room" else 0.75
    wide, deep = rng.uniform(1.2, 1.8), rng.uniform(0.8, 1.0)
    builder.add("a table", furniture.table(rng, (wide, deep, tall)))
    builder.add("vases and books", place(furniture.still_life(rng, min(wide, deep) * 1.1, deep * 0.7), (0, 0, tall)))
    if name == "living room":
        builder.add("a sofa", place(furniture.sofa(rng), (0, 1.25, 0), rng.normal(0, 0.08)))
        builder.add("a chair", place(furniture.chair(rng), (-1.5, 0.1, 0), np.pi / 2 + rng.normal(0, 0.3)))
    else:
        for i in range(int(rng.integers(2, 5))):
            side, along = (-1) ** i, (i // 2 - 0.5) * wide * 0.45
            at = (along, side * (deep / 2 + rng.uniform(0.12, 0.35)), 0)
            builder.add("a chair", place(furniture.chair(rng), at, (0 if side > 0 else np.pi) + rng.normal(0, 0.25)))
    return [_hang(rng, builder, 0.0, 0.0, height)] if rng.uniform() < 0.6 else []


def _hang(rng: np.random.Generator, builder: Builder, x: float, y: float, height: float) -> tuple[Rgb, Rgb]:
    color = _WARM[int(rng.integers(len(_WARM)))]
    drop = float(rng.uniform(0.4, 0.8))
    builder.add("a hanging lamp", place(furniture.pendant(rng, color, height, drop), (x, y, 0)))
    return (x, y, height - drop - 0.3), _times(color, 3.4)


def _exhibits(rng: np.random.Generator, builder: Builder, width: float, depth: float) -> None:
    """Pedestals with sculptures."""
    for i in range(int(rng.integers(3, 6))):
        x = (i - 2) / 4 * width * 0.7 + rng.normal(0, 0.15)
        at = (x, rng.uniform(-0.1, 0.28) * depth, 0.0)
        tall = float(rng.uniform(0.5, 1.0))
        base = box((0.42, 0.42, tall), (0, 0, tall / 2), 0.3)
        things = (furniture.sculpture, furniture.sculpture, lambda r: furniture.vase(r, 0.6, 0.2))
        thing = things[int(rng.integers(3))](rng)
        parts = [(base, paint(rng, "marble", "concrete", "wood")), *place(thing, (0, 0, tall))]
        builder.add("a sculpture", place(parts, at, rng.uniform(0, 1.5)))


def _along_wall(
    rng: np.random.Generator, builder: Builder, name: str, wall: _Wall, height: float
) -> list[tuple[Rgb, Rgb]]:
    """Furniture with its back to a wall, images above; returns lamps."""
    lamps: list[tuple[Rgb, Rgb]] = []
    at = -wall.length_m / 2 + rng.uniform(0.5, 0.8)
    while True:
        span = float(rng.uniform(0.8, 1.5))
        if at + span > wall.length_m / 2 - 0.35:
            return lamps
        lamps += _stand(rng, builder, name, wall, at + span / 2, span, height)
        at += span + rng.uniform(0.15, 0.9)


def _stand(
    rng: np.random.Generator,
    builder: Builder,
    name: str,
    wall: _Wall,
    middle: float,
    span: float,
    height: float,
) -> list[tuple[Rgb, Rgb]]:
    """One thing at a wall; nothing tall before a window."""

    def put(label: str, parts: Parts, back: float, z: float = 0.0) -> tuple[float, float]:
        c, s = np.cos(wall.yaw_rad), np.sin(wall.yaw_rad)
        x, y = middle, wall.reach_m - back
        spot = (float(c * x - s * y), float(s * x + c * y))
        builder.add(label, place(parts, (*spot, z), wall.yaw_rad))
        return spot

    which, blank = rng.uniform(), not wall.windowed(middle, span)
    shelves = {"study": 0.55, "living room": 0.35, "kitchen": 0.25}.get(name, 0.12)
    if name == "gallery":
        if blank and rng.uniform() < 0.9:
            put("a painting", furniture.image(rng, span * 0.8, rng.uniform(0.7, 1.1)), 0.03, 1.5)
    elif which < shelves and blank:
        put("a bookshelf", furniture.bookshelf(rng, span, rng.uniform(1.2, height - 0.5)), 0.34)
    elif which < shelves + 0.28:
        tall = float(rng.uniform(0.65, 0.95 if blank else 0.75))
        put("a chest of drawers", furniture.cabinet(rng, (span, 0.45, tall)), 0.5)
        put("vases and books", furniture.still_life(rng, span, 0.3), 0.25, tall + 0.03)
        if blank and rng.uniform() < 0.7:
            put("a painting", furniture.image(rng, span * 0.6, rng.uniform(0.45, 0.7)), 0.03, 1.65)
    elif which < shelves + 0.4:
        put("a potted plant", furniture.plant(rng, rng.uniform(0.8, 1.5)), 0.4)
    elif which < shelves + 0.5:
        color = _WARM[int(rng.integers(len(_WARM)))]
        x, y = put("a floor lamp", furniture.floor_lamp(rng, color), 0.4)
        return [((x, y, 1.66), _times(color, 1.1))]
    elif name == "cellar" or which < shelves + 0.56:
        put("a stack of crates", furniture.crates(rng), 0.45)
    else:
        if blank:
            put("a painting", furniture.image(rng, span * 0.7, rng.uniform(0.5, 0.9)), 0.03, 1.55)
        if rng.uniform() < 0.6:
            put("a chair", furniture.chair(rng), 0.4)
    return []


def _times(color: Rgb, factor: float) -> Rgb:
    return color[0] * factor, color[1] * factor, color[2] * factor
