"""Rooms: simple furnished boxes whose geometry is a formula, so depth is exact and a frame takes milliseconds.

A room is a function of a random generator: walls, floor pattern, doors, windows and images, and a few solids that
stand on the floor. `rooms_render` looks at it, `rooms_path` moves a camera through it, `rooms_clip` puts both together.

Axis legend: x right, y down, z forward, meters. The floor is y = 0, the ceiling y = -height; x runs from -width / 2 to
width / 2, z from 0 to depth.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

SolidKind = Literal["box", "ball", "cylinder", "cone"]
FloorKind = Literal["tiles", "planks", "plain"]
PanelKind = Literal["door", "window", "painting"]
FRONT, LEFT, RIGHT, BACK, FLOOR, CEILING = range(6)
"""Numbers of the six faces of a room, as seen by a camera that looks along +z."""

Color = Float[np.ndarray, "3"]

SOLID_COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.20, 0.18),
    "blue": (0.16, 0.42, 0.80),
    "yellow": (0.95, 0.72, 0.15),
    "green": (0.22, 0.62, 0.34),
    "purple": (0.55, 0.28, 0.66),
    "orange": (0.94, 0.48, 0.14),
    "teal": (0.12, 0.62, 0.66),
    "pink": (0.90, 0.42, 0.58),
    "brown": (0.36, 0.26, 0.18),
    "white": (0.92, 0.90, 0.86),
    "black": (0.20, 0.22, 0.26),
    "lime": (0.60, 0.74, 0.26),
}
WALL_COLORS: dict[str, tuple[float, float, float]] = {
    "cream": (0.88, 0.84, 0.76),
    "pale blue": (0.74, 0.80, 0.84),
    "rose": (0.82, 0.74, 0.70),
    "sage": (0.76, 0.82, 0.72),
    "sand": (0.90, 0.80, 0.62),
    "lavender": (0.70, 0.70, 0.78),
    "terracotta": (0.84, 0.66, 0.58),
    "blue-gray": (0.60, 0.70, 0.72),
    "white": (0.92, 0.90, 0.88),
    "taupe": (0.66, 0.60, 0.56),
}
FLOOR_COLORS = np.array(
    [
        (0.62, 0.46, 0.32),
        (0.50, 0.36, 0.26),
        (0.72, 0.64, 0.54),
        (0.56, 0.56, 0.58),
        (0.44, 0.50, 0.46),
        (0.78, 0.72, 0.64),
        (0.60, 0.40, 0.36),
        (0.40, 0.42, 0.50),
    ]
)
_PLACEMENTS = 40


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A thing on the floor or on another solid."""

    kind: SolidKind
    x: float
    z: float
    base: float
    """Height of its underside above the floor."""
    radius: float
    """Radius of its footprint; of a box, half the diagonal."""
    height: float
    turn_rad: float = 0.0
    """Rotation of a box about the vertical axis."""
    half_x: float = 0.0
    """Half the sides of a box before the rotation."""
    half_z: float = 0.0
    color: Color
    color_name: str
    stripe_color: Color
    stripes: int
    """Darker bands around it; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A door, window or image: a framed rectangle on a wall."""

    kind: PanelKind
    wall: int
    left: float
    """Extent along the wall: x on the front wall, z on the side walls."""
    right: float
    top: float
    """Extent in y (negative is up)."""
    bottom: float
    frame_color: Color
    color: Color


@dataclass(frozen=True, kw_only=True)
class Rug:
    """A rectangle on the floor with a darker border."""

    x: float
    z: float
    half_x: float
    half_z: float
    color: Color


@dataclass(frozen=True, kw_only=True)
class Room:
    """Everything that decides what a room looks like."""

    width: float
    depth: float
    height: float
    wall_name: str
    wall_colors: Float[np.ndarray, "4 3"]
    """Front, left, right, back."""
    ceiling_color: Color
    wainscot_height: float
    """The wall is darker up to this height; 0 for none."""
    wainscot_color: Color
    floor_kind: FloorKind
    floor_colors: Float[np.ndarray, "2 3"]
    tile_size: float
    floor_offset: Float[np.ndarray, "2"]
    rug: Rug | None
    panels: tuple[Panel, ...]
    solids: tuple[Solid, ...]
    lamp: Float[np.ndarray, "3"]
    """Position of the one light."""
    ambient: float
    """Share of the light that comes from everywhere."""


def build_room(rng: np.random.Generator) -> Room:
    """A random room; equal generators give equal rooms."""
    width, depth, height = rng.uniform(4.2, 6.2), rng.uniform(4.5, 7.0), rng.uniform(2.5, 3.1)
    wall_name, wall = _pick_color(rng, WALL_COLORS, 0.03)
    accent = _pick_color(rng, WALL_COLORS, 0.03)[1] if rng.random() < 0.35 else wall
    shades = rng.uniform(0.86, 1.0, 2)
    first = np.clip(FLOOR_COLORS[rng.integers(len(FLOOR_COLORS))] + rng.normal(0, 0.03, 3), 0, 1)
    floor_kinds: tuple[FloorKind, ...] = ("tiles", "planks", "plain")
    floor_kind = floor_kinds[rng.integers(3)]
    return Room(
        width=width,
        depth=depth,
        height=height,
        wall_name=wall_name,
        wall_colors=np.stack([accent, wall * shades[0], wall * shades[1], wall]),
        ceiling_color=np.clip(np.array([0.93, 0.92, 0.90]) + rng.normal(0, 0.02, 3), 0, 1),
        wainscot_height=rng.uniform(0.7, 1.2) if rng.random() < 0.4 else 0.0,
        wainscot_color=np.clip(wall * rng.uniform(0.45, 0.75) + rng.normal(0, 0.04, 3), 0, 1),
        floor_kind=floor_kind,
        floor_colors=np.stack([first, first * rng.uniform(0.62, 0.85)]),
        tile_size=rng.uniform(0.6, 1.1),
        floor_offset=rng.uniform(0, 1, 2),
        rug=_rug(rng, depth) if floor_kind == "plain" or rng.random() < 0.5 else None,
        panels=_panels(rng, width, depth, height),
        solids=_solids(rng, width, depth),
        lamp=np.array([rng.uniform(-0.35, 0.35) * width, 0.1 - height, rng.uniform(0.25, 0.7) * depth]),
        ambient=rng.uniform(0.42, 0.55),
    )


def _pick_color(
    rng: np.random.Generator, table: dict[str, tuple[float, float, float]], jitter: float
) -> tuple[str, Color]:
    name = list(table)[rng.integers(len(table))]
    return name, np.clip(np.array(table[name]) + rng.normal(0, jitter, 3), 0, 1)


def _rug(rng: np.random.Generator, depth: float) -> Rug:
    return Rug(
        x=rng.uniform(-0.8, 0.8),
        z=rng.uniform(2.0, depth - 1.2),
        half_x=rng.uniform(0.7, 1.4),
        half_z=rng.uniform(0.5, 1.0),
        color=_pick_color(rng, SOLID_COLORS, 0.0)[1] * 0.8 + 0.1,
    )


def _panels(rng: np.random.Generator, width: float, depth: float, height: float) -> tuple[Panel, ...]:
    """One or two on the front wall, up to two on each side wall, each in its own third of the wall."""
    panels: list[Panel] = []
    for wall in (FRONT, LEFT, RIGHT):
        span, start, fewest = (width, -width / 2, 1) if wall == FRONT else (depth, 0.0, 0)
        for third in rng.permutation(3)[: rng.integers(fewest, 3)]:
            center = start + span * (third + 0.5) / 3 + rng.uniform(-0.2, 0.2)
            panels.append(_panel(rng, wall, center, height))
    return tuple(panels)


def _panel(rng: np.random.Generator, wall: int, center: float, height: float) -> Panel:
    kinds: tuple[PanelKind, ...] = ("door", "window", "painting")
    kind = kinds[rng.integers(3)]
    if kind == "door":
        low, high, half = 0.0, rng.uniform(1.9, 2.1), rng.uniform(0.4, 0.5)
        frame = FLOOR_COLORS[rng.integers(len(FLOOR_COLORS))] * rng.uniform(0.7, 1.1)
        color = frame * 0.85
    elif kind == "window":
        low, half = rng.uniform(0.9, 1.2), rng.uniform(0.35, 0.65)
        high = low + rng.uniform(0.7, 1.0)
        frame, color = np.array([0.95, 0.95, 0.93]), np.array([0.62, 0.80, 0.95]) * rng.uniform(0.85, 1.05)
    else:
        low, half = rng.uniform(1.1, 1.5), rng.uniform(0.25, 0.5)
        high = low + rng.uniform(0.4, 0.8)
        frame = np.array([0.25, 0.20, 0.16]) * rng.uniform(0.5, 2.5)
        color = _pick_color(rng, SOLID_COLORS, 0.0)[1]
    return Panel(
        kind=kind,
        wall=wall,
        left=center - half,
        right=center + half,
        top=-min(high, height - 0.15),
        bottom=-low,
        frame_color=np.clip(frame, 0, 1),
        color=np.clip(color, 0, 1),
    )


def _solids(rng: np.random.Generator, width: float, depth: float) -> tuple[Solid, ...]:
    """Three to five solids that keep clear of each other; a low box or cylinder may carry a ball."""
    solids: list[Solid] = []
    wanted = int(rng.integers(3, 6))
    for _ in range(_PLACEMENTS):
        if len(solids) >= wanted:
            break
        radius = rng.uniform(0.22, 0.55)
        x = rng.uniform(-width / 2 + radius + 0.1, width / 2 - radius - 0.1)
        z = rng.uniform(1.9, depth - radius - 0.1)
        if any(math.hypot(x - s.x, z - s.z) < radius + s.radius + 0.05 for s in solids):
            continue
        solid = _solid(rng, x, z, radius)
        solids.append(solid)
        carries = solid.kind in ("box", "cylinder") and solid.height < 0.9 and len(solids) < wanted
        if carries and rng.random() < 0.4:
            narrow = min(solid.half_x, solid.half_z) if solid.kind == "box" else solid.radius
            solids.append(_ball_on(rng, solid, narrow * rng.uniform(0.6, 0.9)))
    return tuple(solids)


def _solid(rng: np.random.Generator, x: float, z: float, radius: float) -> Solid:
    kinds: tuple[SolidKind, ...] = ("box", "ball", "cylinder", "cone")
    kind = kinds[int(rng.choice(4, p=[0.4, 0.25, 0.25, 0.1]))]
    name, color = _pick_color(rng, SOLID_COLORS, 0.04)
    turn, half_x, half_z = 0.0, 0.0, 0.0
    if kind == "box":
        turn = rng.uniform(0, math.pi / 2)
        half_x = radius * rng.uniform(0.55, 0.85)
        half_z, height = math.sqrt(radius**2 - half_x**2), rng.uniform(0.4, 1.5)
    elif kind == "ball":
        height = 2 * radius
    else:
        radius, height = 0.8 * radius, rng.uniform(0.5, 1.5) if kind == "cylinder" else rng.uniform(0.6, 1.3)
    return Solid(
        kind=kind,
        x=x,
        z=z,
        base=0.0,
        radius=radius,
        height=height,
        turn_rad=turn,
        half_x=half_x,
        half_z=half_z,
        color=color,
        color_name=name,
        stripe_color=np.clip(color * 0.55 + 0.05 if rng.random() < 0.5 else color * 0.5 + 0.48, 0, 1),
        stripes=int(rng.integers(2, 4)) if rng.random() < 0.3 else 0,
    )


def _ball_on(rng: np.random.Generator, below: Solid, radius: float) -> Solid:
    name, color = _pick_color(rng, SOLID_COLORS, 0.0)
    return Solid(
        kind="ball",
        x=below.x,
        z=below.z,
        base=below.base + below.height,
        radius=radius,
        height=2 * radius,
        color=color,
        color_name=name,
        stripe_color=color,
        stripes=0,
    )
