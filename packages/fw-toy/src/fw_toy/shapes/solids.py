"""Primitive patches: sheets, boxes, round bodies, surfaces of revolution, lumps and blades.

Axis legend: v vertices, t triangles; z is up. Shapes have uv in meters and grids fine enough for baked light.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fw_toy.shapes.mesh import Patch, Point
from fw_toy.vectors import cross, dot, unit


def merge(patches: Sequence[Patch]) -> Patch:
    """Several patches as one."""
    starts = np.cumsum([0] + [len(patch.vertices) for patch in patches])
    return Patch(
        vertices=np.concatenate([patch.vertices for patch in patches]),
        normals=np.concatenate([patch.normals for patch in patches]),
        uv=np.concatenate([patch.uv for patch in patches]),
        faces=np.concatenate([patch.faces + start for patch, start in zip(patches, starts, strict=False)]),
    )


def sheet(
    origin: Point,
    along_u: Point,
    along_v: Point,
    cell_m: float = 0.5,
    fit_uv: bool = False,
    uv_origin: tuple[float, float] = (0.0, 0.0),
) -> Patch:
    """A flat parallelogram facing along_u x along_v, cut into cells of at most `cell_m`."""
    corner, u, v = (np.asarray(a, float) for a in (origin, along_u, along_v))
    length_u, length_v = math.sqrt(u @ u), math.sqrt(v @ v)
    nu, nv = max(1, math.ceil(length_u / cell_m - 1e-6)), max(1, math.ceil(length_v / cell_m - 1e-6))
    spot, faces = _unit_grid(nu, nv)
    return Patch(
        vertices=corner + spot[:, :1] * u + spot[:, 1:] * v,
        normals=np.repeat(unit(cross(u, v))[None], len(spot), axis=0),
        uv=spot if fit_uv else spot * [length_u, length_v] + uv_origin,
        faces=faces,
    )


def box(size: Point, center: Point = (0.0, 0.0, 0.0), cell_m: float = 1.3, upright: bool = False) -> Patch:
    """A box of the given x, y, z size about `center`; on its sides u runs level, or up where `upright` (wood grain)."""
    extent, middle = np.asarray(size, float), np.asarray(center, float)
    along, across = _BOX_ALONG.copy(), _BOX_ACROSS.copy()
    if extent[1] > extent[0]:
        along[4:], across[4:] = _BOX_ACROSS[4:], -_BOX_ALONG[4:]
    if upright:
        along[:4], across[:4] = _BOX_ACROSS[:4], -_BOX_ALONG[:4]
    span_u, span_v = along * dot(np.abs(along), extent)[:, None], across * dot(np.abs(across), extent)[:, None]
    corner = middle + _BOX_NORMAL * extent / 2 - span_u / 2 - span_v / 2
    shift = np.stack([dot(corner, along), dot(corner, across)], -1)
    if extent.max() > cell_m:
        faces = zip(corner, span_u, span_v, shift, strict=True)
        return merge([sheet(c, u, v, cell_m, uv_origin=(float(o[0]), float(o[1]))) for c, u, v, o in faces])
    a, b = _SQUARE[:, :1], _SQUARE[:, 1:]
    length = np.stack([np.abs(span_u).sum(-1), np.abs(span_v).sum(-1)], -1)
    return Patch(
        vertices=(corner[:, None] + a * span_u[:, None] + b * span_v[:, None]).reshape(-1, 3),
        normals=np.repeat(_BOX_NORMAL, 4, axis=0),
        uv=(shift[:, None] + _SQUARE * length[:, None]).reshape(-1, 2),
        faces=_BOX_FACES,
    )


def lathe(profile: Sequence[tuple[float | int, float | int]], segments: int = 20) -> Patch:
    """A surface of revolution about z of (radius, height) points going up; u runs around, v along the profile.

    Where the profile bends by less than about 50 degrees it is shaded smoothly, else as an edge.
    """
    points = np.asarray(profile, float)
    step = np.diff(points, axis=0)
    run = np.concatenate([[0.0], np.cumsum(np.hypot(step[:, 0], step[:, 1]))])
    slope = unit(np.stack([step[:, 1], -step[:, 0]], -1))
    gentle = dot(slope[:-1], slope[1:]) > 0.64
    bend = unit(slope[:-1] + slope[1:])
    lower, upper = slope.copy(), slope.copy()
    lower[1:][gentle], upper[:-1][gentle] = bend[gentle], bend[gentle]
    radius, height = (np.stack([points[:-1, k], points[1:, k]], 1) for k in (0, 1))
    normal, along = np.stack([lower, upper], 1), np.stack([run[:-1], run[1:]], 1)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    c, s, one = np.cos(angle), np.sin(angle), np.ones(segments + 1)
    girth = 2 * np.pi * float(points[:, 0].max())
    count = len(step)
    strip = _grid_faces(2, segments + 1)
    return _without_slivers(
        Patch(
            vertices=np.stack([radius[..., None] * c, radius[..., None] * s, height[..., None] * one], -1).reshape(
                -1, 3
            ),
            normals=np.stack([normal[..., :1] * c, normal[..., :1] * s, normal[..., 1:] * one], -1).reshape(-1, 3),
            uv=np.stack(np.broadcast_arrays(angle / (2 * np.pi) * girth, along[..., None]), -1).reshape(-1, 2),
            faces=(strip + 2 * (segments + 1) * np.arange(count)[:, None, None]).reshape(-1, 3),
        )
    )


def cylinder(radius: float, height: float, segments: int = 18, rings: int = 2) -> Patch:
    """A closed upright cylinder standing on z = 0."""
    wall = lathe([(radius, z) for z in np.linspace(0, height, rings + 1)], segments)
    return merge([wall, disc(radius, height, segments), disc(radius, 0.0, segments, up=False)])


def disc(radius: float, height: float, segments: int = 18, up: bool = True) -> Patch:
    """A flat round plate at `height`."""
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rim = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(segments, height)], -1)
    vertices = np.concatenate([[[0.0, 0.0, height]], rim])
    index = np.arange(segments)
    faces = np.stack([np.zeros(segments, int), index + 1, (index + 1) % segments + 1], -1)
    return Patch(
        vertices=vertices,
        normals=np.tile([0.0, 0.0, 1.0 if up else -1.0], (len(vertices), 1)),
        uv=vertices[:, :2].copy(),
        faces=faces if up else faces[:, ::-1],
    )


def cone(radius: float, height: float, segments: int = 18, rings: int = 3) -> Patch:
    """A cone standing on z = 0."""
    profile = [(radius * (1 - a), height * a) for a in np.linspace(0, 0.999, rings + 1)]
    return merge([lathe(profile, segments), disc(radius, 0.0, segments, up=False)])


def sphere(radius: float, segments: int = 20, rings: int = 12) -> Patch:
    """A sphere about the origin."""
    polar = np.linspace(-np.pi / 2 + 1e-3, np.pi / 2 - 1e-3, rings + 1)
    ball = lathe([(radius * np.cos(a), radius * np.sin(a)) for a in polar], segments)
    return Patch(vertices=ball.vertices, normals=ball.vertices / radius, uv=ball.uv, faces=ball.faces)


def lump(rng: np.random.Generator, size: Point, rough: float = 0.25, detail: int = 2) -> Patch:
    """A bumpy ball (rock, bush, crown) with half axes `size`, its radius varied by `rough`."""
    base, faces = _icosphere(detail)
    bump = np.zeros(len(base))
    for octave in range(4):
        waves = rng.normal(size=(5, 3)) * 1.7 * 1.9**octave
        bump += np.sin(base @ waves.T + rng.uniform(0, 6.28, 5)).sum(1) * 0.3 * 0.6**octave
    vertices = base * (1 + rough * np.clip(bump, -1.5, 1.5)[:, None]) * np.asarray(size, float)
    corner = vertices[faces]
    area = cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], area)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    around = np.arctan2(base[:, 1], base[:, 0])
    scale = float(np.mean(size))
    flat = np.abs(base[:, 2]) > 0.8
    uv = np.where(flat[:, None], vertices[:, :2], np.stack([around * scale, vertices[:, 2] * 1.3], -1))
    seam = np.ptp(around[faces], axis=1) > np.pi
    mixed = np.ptp(flat[faces].astype(int), axis=1) > 0
    return _with_own_uv(
        Patch(vertices=vertices, normals=normals, uv=uv, faces=faces), seam | mixed, vertices[:, [0, 2]]
    )


def blades(
    roots: np.ndarray, tips: np.ndarray, widths: np.ndarray, normals: np.ndarray, uv: np.ndarray | None = None
) -> Patch:
    """Many small diamonds (leaves, grass blades), one from each root to its tip, shaded with the given normals."""
    axis = tips - roots
    side = cross(axis, normals)
    side *= widths[:, None] / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) / 2
    middle = roots + 0.45 * axis
    vertices = np.stack([roots, middle - side, tips, middle + side], 1).reshape(-1, 3)
    length = np.linalg.norm(axis, axis=1)
    origin = vertices.reshape(-1, 4, 3)[:, 0, :2] if uv is None else uv
    local = np.stack([np.stack([0 * widths, -widths / 2, 0 * widths, widths / 2], 1)] * 1, -1)
    up = np.stack([0 * length, 0.45 * length, length, 0.45 * length], 1)[..., None]
    first = 4 * np.arange(len(roots))[:, None]
    return Patch(
        vertices=vertices,
        normals=np.repeat(normals, 4, axis=0),
        uv=(origin[:, None] + np.concatenate([local, up], -1)).reshape(-1, 2),
        faces=np.concatenate([first + np.array(triple) for triple in ((0, 1, 2), (0, 2, 3))]),
    )


@lru_cache(maxsize=512)
def _unit_grid(nu: int, nv: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.meshgrid(np.linspace(0, 1, nu + 1), np.linspace(0, 1, nv + 1), indexing="xy")
    return np.stack([a.ravel(), b.ravel()], -1), _grid_faces(nv + 1, nu + 1)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _without_slivers(patch: Patch) -> Patch:
    corner = patch.vertices[patch.faces]
    area = cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    return Patch(
        vertices=patch.vertices, normals=patch.normals, uv=patch.uv, faces=patch.faces[dot(area, area) > 1e-20]
    )


def _with_own_uv(patch: Patch, chosen: np.ndarray, uv: np.ndarray) -> Patch:
    """The chosen faces get vertices of their own, with another uv: hides the seam of a wrapped texture."""
    own = patch.faces[chosen].ravel()
    faces = patch.faces.copy()
    faces[chosen] = len(patch.vertices) + np.arange(len(own)).reshape(-1, 3)
    return Patch(
        vertices=np.concatenate([patch.vertices, patch.vertices[own]]),
        normals=np.concatenate([patch.normals, patch.normals[own]]),
        uv=np.concatenate([patch.uv, uv[own]]),
        faces=faces,
    )


@lru_cache(maxsize=8)
def _icosphere(detail: int) -> tuple[np.ndarray, np.ndarray]:
    g = (1 + 5**0.5) / 2
    corner = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g)]
    corner += [(0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    vertices = np.array(corner, float) / np.linalg.norm(corner[0])
    listing = "0 11 5 0 5 1 0 1 7 0 7 10 0 10 11 1 5 9 5 11 4 11 10 2 10 7 6 7 1 8 3 9 4 3 4 2 3 2 6 3 6 8 3 8 9"
    listing += " 4 9 5 2 4 11 6 2 10 8 6 7 9 8 1"
    faces = np.array([int(i) for i in listing.split()]).reshape(-1, 3)
    for _ in range(detail):
        pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
        middle = vertices[unique].mean(1)
        a, b, c = (len(vertices) + inverse.reshape(3, -1)).astype(int)
        vertices = np.concatenate([vertices, middle / np.linalg.norm(middle, axis=1, keepdims=True)])
        p, q, r = faces.T
        faces = np.concatenate([np.stack(f, 1) for f in ((p, a, c), (a, q, b), (c, b, r), (a, b, c))])
    return vertices, faces


_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_BOX_NORMAL = np.array([[-1.0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])
_BOX_ACROSS = np.array([[0.0, 0, 1]] * 4 + [[0, 1, 0]] * 2)
_BOX_ALONG = cross(_BOX_ACROSS, _BOX_NORMAL)
_BOX_FACES = (np.array([[0, 1, 2], [0, 2, 3]]) + 4 * np.arange(6)[:, None, None]).reshape(-1, 3)
