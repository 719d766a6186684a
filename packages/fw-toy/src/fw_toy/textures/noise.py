"""Tileable noise on a square grid: the raw material of every texture.

Axis legend: n rows and n columns of one tile, row 0 at the tile's v = 0, column 0 at u = 0; all wrap around.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import KDTree

Grid = Float[np.ndarray, "n n"]


def spectral(
    rng: np.random.Generator,
    n: int,
    beta: float | int = 1.0,
    low: float | int = 1.0,
    high: float | int | None = None,
    stretch: float | int = 1.0,
) -> Grid:
    """Gaussian noise with amplitude falling as frequency^-beta between `low` and `high` cycles per tile.

    `stretch` below 1 makes the features 1 / stretch times longer along u, above 1 longer along v. Returns zero mean and
    unit deviation.
    """
    fv = np.fft.fftfreq(n, 1.0 / n)[:, None]
    fu = np.fft.rfftfreq(n, 1.0 / n)[None, :]
    frequency = np.sqrt((fu / stretch) ** 2 + fv**2)
    top = n / 2 if high is None else high
    gain = np.where(frequency > 0, np.maximum(frequency, 1e-6) ** -beta, 0.0)
    gain = gain * np.exp(-((frequency / top) ** 4)) * (1.0 - np.exp(-((frequency / low) ** 4)))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * gain, s=(n, n))
    return field / max(float(field.std()), 1e-12)


def warp(field: Grid, shift_u: Grid, shift_v: Grid) -> Grid:
    """`field` looked up at positions moved by the shifts (in pixels), wrapping around."""
    n = field.shape[0]
    rows, columns = np.mgrid[0:n, 0:n].astype(float)
    return ndimage.map_coordinates(field, [rows + shift_v, columns + shift_u], order=1, mode="grid-wrap")


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A tiling of the plane into cells."""

    edge: Float[np.ndarray, "n n"]
    """Distance to the nearest cell border, in tile lengths."""
    index: Int[np.ndarray, "n n"]
    """Which cell, 0..count-1."""
    u: Float[np.ndarray, "n n"]
    """Offset along u from the cell's center, in tile lengths."""
    v: Float[np.ndarray, "n n"]
    """Offset along v from the cell's center, in tile lengths."""
    count: int
    """Number of cells."""

    def per_cell(self, rng: np.random.Generator) -> Grid:
        """One standard normal number per cell, spread over its pixels."""
        return rng.standard_normal(self.count)[self.index]


def voronoi(rng: np.random.Generator, n: int, count: int, jitter: float = 1.0) -> Cells:
    """Voronoi cells of about `count` points on a jittered grid, wrapping around."""
    side = max(2, round(count**0.5))
    base = (np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2) + 0.5) / side
    base[:, 1] += (np.arange(side * side) // side % 2) * 0.5 / side
    points = (base + rng.uniform(-0.5, 0.5, base.shape) * jitter / side) % 1.0
    rows, columns = (np.mgrid[0:n, 0:n] + 0.5) / n
    query = np.stack([rows, columns], -1).reshape(-1, 2)
    distance, index = (np.asarray(a) for a in KDTree(points, boxsize=1.0).query(query, k=2))
    offset = (query - points[index[:, 0]] + 0.5) % 1.0 - 0.5
    return Cells(
        edge=((distance[:, 1] - distance[:, 0]) / 2).reshape(n, n),
        index=index[:, 0].reshape(n, n).astype(np.int64),
        u=offset[:, 1].reshape(n, n),
        v=offset[:, 0].reshape(n, n),
        count=len(points),
    )


def courses(n: int, rows: int, columns: int, stagger: float = 0.5, wobble: Grid | None = None) -> Cells:
    """`rows` courses of `columns` bricks, each course moved by `stagger` of a brick; `wobble` bends the joints."""
    bend = np.zeros((n, n)) if wobble is None else wobble
    v = ((np.arange(n) + 0.5) / n)[:, None] + bend
    u = ((np.arange(n) + 0.5) / n)[None, :] + bend.T
    course = np.floor(v * rows).astype(np.int64)
    along = u * columns + course * stagger
    brick = np.floor(along).astype(np.int64)
    du, dv = (along - brick - 0.5) / columns, (v * rows - course - 0.5) / rows
    edge = np.minimum(0.5 / columns - np.abs(du), 0.5 / rows - np.abs(dv))
    index = (course % rows) * columns + brick % columns
    return Cells(edge=edge, index=index, u=du, v=dv, count=rows * columns)


def smoothstep(low: float | int | np.ndarray, high: float | int | np.ndarray, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth cubic between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def ramp(x: np.ndarray, colors: list[tuple[float, float, float]]) -> Float[np.ndarray, "n n 3"]:
    """Colors evenly spaced over x in [0, 1], blended linearly; x outside is held at the ends."""
    stops = np.linspace(0.0, 1.0, len(colors))
    table = np.asarray(colors, float)
    return np.stack([np.interp(x, stops, table[:, channel]) for channel in range(3)], -1)
