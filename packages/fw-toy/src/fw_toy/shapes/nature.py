"""Things that grow, rocks, and the land itself.

Axis legend: z up, meters; each thing stands on z = 0 about the origin. Land is a height field over x and y.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fw_toy.shapes.mesh import Material, Parts, Patch
from fw_toy.shapes.palette import paint
from fw_toy.shapes.solids import blades, cylinder, lathe, lump, merge

HeightField = Callable[[np.ndarray, np.ndarray], np.ndarray]


def broadleaf(rng: np.random.Generator, height: float, leaf: Material) -> Parts:
    """A tree with a round crown of leaf clumps on forking branches."""
    trunk_height, radius = height * rng.uniform(0.35, 0.45), height * 0.035
    trunk = lathe(
        [(radius * 1.7, -0.3), (radius * 1.1, 0.25), (radius, trunk_height * 0.6), (radius * 0.6, trunk_height * 1.5)],
        12,
    )
    wood, green = [trunk], []
    crown = height - trunk_height
    count = int(rng.integers(6, 10))
    for i in range(count):
        azimuth = 2 * np.pi * (i / count + rng.uniform(-0.05, 0.05))
        out = crown * rng.uniform(0.18, 0.36) * (i > 0)
        center = np.array([np.cos(azimuth) * out, np.sin(azimuth) * out, trunk_height + crown * rng.uniform(0.25, 0.7)])
        size = crown * rng.uniform(0.22, 0.32) * np.array([1.0, 1.0, 0.85])
        green.append(lump(rng, size * 0.88, 0.13, 2).moved(center))
        green.append(_leaf_cloud(rng, center, size * 1.08, int(90 + 40 * crown), 0.1 + 0.02 * height))
        wood.append(_branch(np.array([0, 0, trunk_height * 0.75]), center, radius * 0.45))
    return [(merge(wood), paint(rng, "bark")), (merge(green), leaf)]


def conifer(rng: np.random.Generator, height: float, leaf: Material) -> Parts:
    """A fir of drooping tiers."""
    trunk = lathe([(height * 0.03, -0.3), (height * 0.022, height * 0.5), (0.02, height * 0.95)], 10)
    tiers = []
    count = max(5, int(height * 1.3))
    for i in range(count):
        a = i / count
        z, reach = height * (0.14 + 0.82 * a), height * 0.2 * (1 - a) ** 0.85 + 0.12
        number = int(26 + 40 * (1 - a))
        azimuth = rng.uniform(0, 2 * np.pi, number)
        root = np.stack([0.1 * np.cos(azimuth), 0.1 * np.sin(azimuth), z + rng.uniform(0, 0.25, number)], -1)
        length = reach * rng.uniform(0.75, 1.1, number)
        tip = root + np.stack([np.cos(azimuth) * length, np.sin(azimuth) * length, -0.32 * length], -1)
        normal = np.stack([0.4 * np.cos(azimuth), 0.4 * np.sin(azimuth), np.full(number, 0.9)], -1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        tiers.append(blades(root, tip, length * 0.5, normal))
        skirt = lathe([(reach * 0.72, z - reach * 0.3), (0.03, z + height * 0.1)], 12)
        tiers.append(skirt)
    return [(trunk, paint(rng, "bark")), (merge(tiers), leaf)]


def bush(rng: np.random.Generator, size: float, leaf: Material) -> Parts:
    """A bush of one to three lumps."""
    pieces = []
    for _ in range(int(rng.integers(1, 4))):
        half = size * rng.uniform(0.5, 0.8) * np.array([1.0, 1.0, 0.8])
        center = np.array([*rng.uniform(-0.4, 0.4, 2) * size, half[2] * 0.7])
        pieces += [lump(rng, half * 0.9, 0.14, 2).moved(center), _leaf_cloud(rng, center, half * 1.05, 160, 0.12)]
    return [(merge(pieces), leaf)]


def boulder(rng: np.random.Generator, size: float) -> Parts:
    """A rock, half sunk."""
    half = size * rng.uniform(0.6, 1.0, 3) * [1.0, 0.9, 0.7]
    return [
        (lump(rng, half, 0.2, 3).moved((0, 0, half[2] * 0.45), rng.uniform(0, 6)), paint(rng, "rock", "rock", "rubble"))
    ]


def tufts(rng: np.random.Generator, spots: Float[np.ndarray, "k 3"], height: float, material: Material) -> Parts:
    """Grass tufts of a few blades at every spot."""
    per = 7
    root = np.repeat(spots, per, axis=0) + np.concatenate(
        [rng.normal(0, 0.045, (len(spots) * per, 2)), np.full((len(spots) * per, 1), -0.03)], -1
    )
    azimuth = rng.uniform(0, 2 * np.pi, len(root))
    lean, tall = rng.uniform(0.05, 0.5, len(root)), height * rng.uniform(0.5, 1.1, len(root))
    tip = root + np.stack([np.cos(azimuth) * lean * tall, np.sin(azimuth) * lean * tall, tall], -1)
    normal = np.stack([-0.3 * np.cos(azimuth), -0.3 * np.sin(azimuth), np.full(len(root), 0.9)], -1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return [(blades(root, tip, 0.012 + 0.05 * tall, normal), material)]


def land(rng: np.random.Generator, relief_m: float, hills_m: float, flat_m: float) -> HeightField:
    """Gentle ground, flat within `flat_m` of the origin, rising to hills far away."""
    waves = [(rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), k) for k in (0.05, 0.08, 0.13, 0.21, 0.34)]
    far = [(rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), k) for k in (0.012, 0.02, 0.031, 0.05, 0.09)]

    def height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        radius = np.hypot(x, y)
        near = sum(np.sin(k * (x * np.cos(a) + y * np.sin(a)) + p) * 0.06 / k for a, p, k in waves)
        hill = sum(np.sin(k * (x * np.cos(a) + y * np.sin(a)) + p) * 0.012 / k for a, p, k in far)
        away = np.clip((radius - flat_m) / 12.0, 0, 1) ** 2
        rise = np.clip((radius - 35) / 110.0, 0, 1) ** 1.5
        return near * relief_m * away + (0.75 + 0.5 * hill) * hills_m * rise - 0.3 * away

    return height


def ground(height: HeightField, reach_m: float = 230.0, cells: int = 84) -> Patch:
    """The land as a grid that is fine near the origin and coarse far away."""
    s = np.linspace(-1, 1, cells + 1)
    axis = reach_m * np.sinh(s * 4.6) / np.sinh(4.6)
    x, y = np.meshgrid(axis, axis, indexing="xy")
    z = height(x, y)
    step = 0.05
    dx = (height(x + step, y) - height(x - step, y)) / (2 * step)
    dy = (height(x, y + step) - height(x, y - step)) / (2 * step)
    normal = np.stack([-dx, -dy, np.ones_like(z)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    index = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack(f, -1).reshape(-1, 3) for f in ((a, b, c), (a, c, d))])
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    return Patch(vertices=points, normals=normal.reshape(-1, 3), uv=points[:, :2].copy(), faces=faces)


def ribbon(height: HeightField, line: Float[np.ndarray, "k 2"], width_m: float, lift_m: float = 0.02) -> Patch:
    """A path along a polyline, just above the land."""
    step = np.gradient(line, axis=0)
    side = np.stack([-step[:, 1], step[:, 0]], -1) / np.linalg.norm(step, axis=1, keepdims=True)
    across = np.linspace(-0.5, 0.5, 5)
    xy = line[:, None] + across[None, :, None] * width_m * side[:, None]
    z = height(xy[..., 0], xy[..., 1]) + lift_m * (1 - (2 * across[None]) ** 2 * 1.3)
    run = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    uv = np.stack(np.broadcast_arrays(across[None] * width_m, run[:, None]), -1).reshape(-1, 2)
    index = np.arange(xy.shape[0] * 5).reshape(-1, 5)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack(f, -1).reshape(-1, 3) for f in ((a, b, d), (b, c, d))])
    points = np.concatenate([xy.reshape(-1, 2), z.reshape(-1, 1)], -1)
    return Patch(vertices=points, normals=np.tile([0.0, 0.0, 1.0], (len(points), 1)), uv=uv, faces=faces)


def backdrop(rng: np.random.Generator, level_m: float) -> Parts:
    """View through a window: lawn and a few trees."""
    field = land(rng, 0.5, 14.0, 8.0)
    parts: Parts = [(ground(field, 160.0, 30).moved((0, 0, level_m)), paint(rng, "grass"))]
    leaf = paint(rng, "leaves", translucency=0.4)
    for _ in range(7):
        azimuth, distance = rng.uniform(0.2, 2.9), rng.uniform(9, 22)
        tree = broadleaf(rng, rng.uniform(4, 8), leaf)
        spot = (distance * np.cos(azimuth), distance * np.sin(azimuth), level_m)
        parts += [(patch.moved(spot), material) for patch, material in tree]
    return parts


def _leaf_cloud(rng: np.random.Generator, center: np.ndarray, half: np.ndarray, count: int, leaf_m: float) -> Patch:
    """Leaves scattered over an ellipsoid, pointing outward and down."""
    out = rng.normal(size=(count, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    root = center + out * half * rng.uniform(0.82, 1.02, (count, 1))
    along = out + rng.normal(0, 0.7, (count, 3)) - [0, 0, 0.35]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    size = leaf_m * rng.uniform(0.7, 1.5, count)
    return blades(root, root + along * size[:, None], size * 0.62, out)


def _branch(start: np.ndarray, end: np.ndarray, radius: float) -> Patch:
    """A thin tapering limb between two points."""
    axis = end - start
    length = float(np.linalg.norm(axis))
    limb = cylinder(radius, length, 7, 1)
    z = axis / length
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    return limb.mapped(np.stack([x, np.cross(z, x), z], 1), start)
