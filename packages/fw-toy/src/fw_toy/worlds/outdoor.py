"""Places outdoors: a village yard, a park, ruins, a market square; ground, buildings, trees, hills and weather.

Axis legend: x right, y ahead, z up, meters; the place is around the origin, cameras are mostly at y < 0.
"""

from collections.abc import Callable

import numpy as np

from fw_toy.rendering.lights import Lighting, Sky, sun
from fw_toy.shapes import buildings as built
from fw_toy.shapes import nature
from fw_toy.shapes.mesh import Builder, Parts, Rgb, place
from fw_toy.shapes.palette import paint
from fw_toy.worlds.scene import Blueprint

_WEATHER: tuple[tuple[str, float, float, Rgb, Rgb, Rgb], ...] = (
    # words, sun elevation, cloud cover, sun color, zenith, horizon
    ("sunlit", 0.85, 0.35, (4.6, 4.2, 3.6), (0.1, 0.24, 0.68), (0.5, 0.68, 0.95)),
    ("golden evening", 0.36, 0.4, (5.2, 3.5, 1.9), (0.14, 0.24, 0.55), (1.0, 0.72, 0.46)),
    ("bright morning", 0.55, 0.3, (4.8, 4.2, 3.3), (0.12, 0.27, 0.68), (0.62, 0.74, 0.92)),
    ("cloudy", 0.9, 0.72, (2.0, 1.95, 1.85), (0.3, 0.38, 0.52), (0.62, 0.68, 0.76)),
)


class _Site:
    """Keeps things apart: circles already taken on the ground."""

    def __init__(self, rng: np.random.Generator, builder: Builder, height: nature.HeightField):
        self.rng, self.builder, self.height = rng, builder, height
        self.taken: list[tuple[float, float, float]] = []

    def free(self, x: float, y: float, radius: float) -> bool:
        return all(np.hypot(x - a, y - b) > radius + r for a, b, r in self.taken)

    def put(self, label: str, parts: Parts, x: float, y: float, radius: float, yaw: float = 0.0) -> bool:
        """Places parts at (x, y) on the land if there is room."""
        if not self.free(x, y, radius):
            return False
        self.taken.append((x, y, radius))
        z = float(self.height(np.array([x]), np.array([y]))[0])
        self.builder.add(label, place(parts, (x, y, z - 0.02), yaw))
        return True

    def scatter(
        self,
        label: str,
        make: Callable[[], Parts],
        count: int,
        near: float | int,
        far: float | int,
        radius: float,
        yaws: bool = True,
    ) -> None:
        """Tries to place `count` things in the ring between `near` and `far`."""
        for _ in range(count):
            for _ in range(12):
                azimuth, distance = self.rng.uniform(0, 2 * np.pi), np.sqrt(self.rng.uniform(near**2, far**2))
                x, y = float(distance * np.cos(azimuth)), float(distance * np.sin(azimuth))
                if self.free(x, y, radius):
                    self.put(label, make(), x, y, radius, self.rng.uniform(0, 2 * np.pi) if yaws else 0.0)
                    break


def outdoor(rng: np.random.Generator) -> Blueprint:
    """A place outdoors in some weather."""
    words, elevation, cover, color, zenith, horizon = _WEATHER[int(rng.integers(len(_WEATHER)))]
    theme = int(rng.integers(len(_THEMES)))
    name, layout = _THEMES[theme]
    builder = Builder()
    height = nature.land(rng, rng.uniform(0.3, 0.8), rng.uniform(10, 26), 9.0)
    site = _Site(rng, builder, height)
    layout(site, rng)
    leaf = [paint(rng, "leaves", translucency=0.45) for _ in range(3)]
    tall = rng.uniform(4.0, 7.5)
    site.scatter("a tree", lambda: nature.broadleaf(rng, tall * rng.uniform(0.7, 1.2), leaf[0]), 5, 9, 20, 1.6)
    site.scatter("a fir tree", lambda: nature.conifer(rng, tall * rng.uniform(0.8, 1.5), leaf[1]), 5, 11, 26, 1.6)
    site.scatter("a bush", lambda: nature.bush(rng, rng.uniform(0.5, 1.1), leaf[2]), 9, 5, 18, 0.9)
    site.scatter("a boulder", lambda: nature.boulder(rng, rng.uniform(0.25, 0.8)), 7, 4, 16, 0.7)
    site.scatter("distant trees", lambda: nature.conifer(rng, rng.uniform(6, 10), leaf[1]), 14, 28, 60, 2.0)
    azimuth = rng.uniform(-2.6, -0.5)
    elevation = elevation * rng.uniform(0.85, 1.15)
    sky = Sky(
        zenith=zenith, horizon=horizon, cover=cover + rng.uniform(-0.1, 0.1), shift=tuple(rng.uniform(0, 1, 2)),
        cloud=(1.2, 1.15, 1.1) if cover < 0.6 else (0.85, 0.87, 0.9),
    )  # fmt: skip
    lighting = Lighting(sky=sky, lights=(sun(azimuth, elevation, color),), haze_per_m=rng.uniform(0.0012, 0.003))
    return Blueprint(
        kind="outdoor",
        builder=builder,
        lighting=lighting,
        setting=f"a {words} {name}",
        focus=np.array([rng.uniform(-1, 1), rng.uniform(0, 1.5), 1.4]),
        low=np.array([-13.0, -15.0, 0.7]),
        high=np.array([13.0, 8.0, 6.0]),
    )


def _meadow(site: _Site, rng: np.random.Generator, *kinds: str) -> None:
    site.builder.add("", [(nature.ground(site.height), paint(rng, *kinds))])
    blade = paint(rng, "grass", tile_m=0.8, translucency=0.5, tint=(1.1, 1.15, 0.9), light_m=0.6)
    xy = rng.uniform(-1, 1, (420, 2)) * 11
    spots = np.concatenate([xy, site.height(xy[:, 0], xy[:, 1])[:, None]], -1)
    site.builder.add("", nature.tufts(rng, spots, rng.uniform(0.14, 0.3), blade))


def _path(site: _Site, rng: np.random.Generator, kinds: tuple[str, ...], label: str) -> None:
    y = np.linspace(-26, 5, 50)
    x = rng.uniform(1.2, 2.4) * np.sin(y * rng.uniform(0.14, 0.22) + rng.uniform(0, 6)) + rng.uniform(-1, 1)
    line = np.stack([x, y], -1)
    site.builder.add(label, [(nature.ribbon(site.height, line, rng.uniform(1.6, 2.4), 0.05), paint(rng, *kinds))])


def _village(site: _Site, rng: np.random.Generator) -> None:
    _meadow(site, rng, "grass")
    _path(site, rng, ("cobbles", "gravel", "dirt"), "a winding path")
    _house(site, rng, rng.uniform(-2, 2), rng.uniform(4.5, 6.0), rng.normal(0, 0.25), 1.0)
    _house(site, rng, rng.uniform(-13, -10), rng.uniform(7, 12), rng.uniform(0.3, 0.9), 0.9)
    _house(site, rng, rng.uniform(10, 13), rng.uniform(8, 13), rng.uniform(-0.9, -0.3), 0.9)
    side = rng.choice([-1, 1])
    length = float(rng.uniform(4.5, 7))
    site.builder.add(
        "a wooden fence",
        place(built.fence(rng, length), (side * 5.5 - length / 2, rng.uniform(-1.5, 0.5), 0), rng.normal(0, 0.2)),
    )
    site.put("a well", built.well(rng), -side * rng.uniform(3.5, 5), rng.uniform(-1, 1), 1.2, rng.uniform(0, 3))
    site.put(
        "round straw bales",
        built.haystack(rng),
        side * rng.uniform(3.5, 5),
        rng.uniform(-3.4, -2.4),
        1.4,
        rng.uniform(0, 3),
    )
    site.scatter("a barrel", lambda: built.barrel(rng), 3, 2.5, 5, 0.45)


def _park(site: _Site, rng: np.random.Generator) -> None:
    _meadow(site, rng, "grass")
    _path(site, rng, ("gravel", "sand", "cobbles"), "a gravel path")
    leaf = paint(rng, "leaves", translucency=0.45)
    for x, y in ((-3.8, 2.5), (3.6, 3.5), (0.4, 6.5)):
        tree = nature.broadleaf(rng, rng.uniform(4.5, 6.5), leaf)
        site.put("a tall tree", tree, x + rng.normal(0, 0.5), y + rng.normal(0, 0.5), 1.3)
    site.put("a garden bench", built.bench(rng), rng.uniform(-2, 2), rng.uniform(1.2, 2.4), 0.9, rng.normal(0, 0.4))
    site.put("a street lamp", built.lamp_post(rng), rng.choice([-1, 1]) * rng.uniform(2, 3), rng.uniform(-0.5, 1), 0.4)
    site.put("a garden bench", built.bench(rng), rng.choice([-1, 1]) * 4.5, rng.uniform(-2, 0), 0.9, rng.uniform(-1, 1))
    site.scatter("a flowering bush", lambda: nature.bush(rng, rng.uniform(0.5, 0.9), leaf), 6, 3, 8, 0.9)
    wall = built.stone_wall(rng, 14, rng.uniform(0.8, 1.3))
    site.builder.add("a low stone wall", place(wall, (-7, rng.uniform(8, 9.5), -0.1), rng.normal(0, 0.06)))


def _ruins(site: _Site, rng: np.random.Generator) -> None:
    _meadow(site, rng, "grass", "dirt", "sand")
    _path(site, rng, ("cobbles", "slabs"), "old paving")
    site.put(
        "a stone arch",
        built.arch(rng, rng.uniform(2, 2.8), rng.uniform(3.2, 4.4)),
        rng.uniform(-1, 1),
        rng.uniform(1.5, 3),
        1.8,
        rng.normal(0, 0.3),
    )
    site.put(
        "a round tower",
        built.tower(rng, rng.uniform(1.5, 2.2), rng.uniform(5, 8)),
        rng.choice([-1, 1]) * rng.uniform(6, 8),
        rng.uniform(5, 9),
        2.6,
    )
    for i in range(6):
        x, y = (-1) ** i * rng.uniform(2.8, 3.4), -2.6 + 2.4 * (i // 2)
        site.put(
            "marble columns",
            built.column(rng, rng.uniform(0.8, 3.2), rng.uniform(0.22, 0.3)),
            x,
            y,
            0.5,
            rng.uniform(0, 1),
        )
    site.scatter("fallen stones", lambda: nature.boulder(rng, rng.uniform(0.3, 0.7)), 8, 2.0, 9.0, 0.6)
    for side in (-1, 1):
        wall = built.stone_wall(rng, rng.uniform(3, 6), rng.uniform(0.6, 1.8))
        site.builder.add(
            "a ruined wall", place(wall, (side * 7 - 2, rng.uniform(2, 5), -0.15), side * rng.uniform(0.2, 0.7))
        )


def _square(site: _Site, rng: np.random.Generator) -> None:
    site.builder.add("", [(nature.ground(site.height), paint(rng, "cobbles", "slabs", "gravel"))])
    for i, x in enumerate((-9.0, -2.5, 4.0, 10.5)):
        _house(
            site,
            rng,
            x + rng.normal(0, 0.3),
            8.0 + rng.normal(0, 0.6),
            rng.normal(0, 0.04),
            1.1 if i % 2 else 1.0,
            storeys=2,
        )
    _house(site, rng, -12.5, -0.5, np.pi / 2, 1.0, storeys=2)
    _house(site, rng, 13.0, -0.5, -np.pi / 2, 1.0, storeys=2)
    site.put("a well", built.well(rng), rng.uniform(-1.5, 1.5), rng.uniform(0.5, 2), 1.2)
    for x in (-4.5, 4.5):
        site.put("a street lamp", built.lamp_post(rng), x, rng.uniform(0.5, 2), 0.4)
    site.scatter("a barrel", lambda: built.barrel(rng), 4, 3, 6, 0.45)
    site.put(
        "an arcade arch",
        built.arch(rng, 2.2, 3.4),
        rng.choice([-1, 1]) * 5.5,
        rng.uniform(2, 3),
        1.8,
        rng.uniform(-0.7, 0.7),
    )
    site.scatter("a garden bench", lambda: built.bench(rng), 2, 3, 6, 0.9)


def _house(
    site: _Site, rng: np.random.Generator, x: float, y: float, yaw: float, scale: float, storeys: int = 0
) -> None:
    kinds = {
        "brick": "a brick house",
        "plaster": "a plastered house",
        "rubble": "a stone house",
        "boards": "a wooden house",
    }
    kind = list(kinds)[int(rng.integers(4))]
    size = (rng.uniform(5, 6.5) * scale, rng.uniform(4, 5) * scale, 2.8 * (storeys or int(rng.integers(1, 3))) + 0.2)
    site.put(kinds[kind], built.house(rng, size, paint(rng, kind)), x, y, 2.6, yaw)


_THEMES: tuple[tuple[str, Callable[[_Site, np.random.Generator], None]], ...] = (
    ("village yard", _village),
    ("park", _park),
    ("field of ruins", _ruins),
    ("market square", _square),
)
