"""Triangles with materials: patches that shapes are made of, and the world that the rays meet.

Axis legend: v vertices, t triangles. World axes: x right, y ahead, z UP, meters (cameras keep OpenCV axes; their
pose maps them into this world). uv is in meters on the surface, or in [0, 1] for images and the like.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fw_toy.vectors import cross, dot, unit

Rgb = tuple[float, float, float]
Point = Sequence[Any] | np.ndarray
"""Three numbers: x, y, z."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Appearance of a surface."""

    texture: str
    """Name of a texture kind, see `textures.KINDS`."""
    variant: int = 0
    """Which of the kind's variants (its colors and pattern)."""
    tint: Rgb = (1.0, 1.0, 1.0)
    """Factor on the texture's linear color."""
    tile_m: float = 1.0
    """Length on the surface of one texture tile, in meters."""
    bump: float = 1.0
    """Factor on the texture's relief."""
    gloss: float = 0.2
    """Factor on the texture's shine."""
    emission: Rgb = (0.0, 0.0, 0.0)
    """Light that the surface gives off, radiance."""
    translucency: float = 0.0
    """Part of the light from behind that comes through (leaves, cloth), in [0, 1]."""
    light_m: float = 0.12
    """Grain of baked light: vertices nearer to each other than this, facing the same way, share it."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A piece of surface: an indexed mesh with normals and uv."""

    vertices: Float[np.ndarray, "v 3"]
    """Positions."""
    normals: Float[np.ndarray, "v 3"]
    """Unit normals, outward."""
    uv: Float[np.ndarray, "v 2"]
    """Texture coordinates."""
    faces: Int[np.ndarray, "t 3"]
    """Vertex indices; their order does not matter, `Builder.build` winds faces about their normals."""

    def moved(self, offset: Point = (0.0, 0.0, 0.0), yaw_rad: float = 0.0, scale: float = 1.0) -> "Patch":
        """Scaled, then turned about z, then shifted."""
        c, s = np.cos(yaw_rad), np.sin(yaw_rad)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return self.mapped(turn, np.asarray(offset, float), scale)

    def mapped(
        self, rotation: Float[np.ndarray, "3 3"], offset: Float[np.ndarray, " 3"], scale: float = 1.0
    ) -> "Patch":
        """Scaled, rotated, shifted; uv follows the scale, so that texture keeps its grain."""
        return Patch(
            vertices=scale * self.vertices @ rotation.T + offset,
            normals=self.normals @ rotation.T,
            uv=self.uv * scale,
            faces=self.faces,
        )


Parts = list[tuple[Patch, Material]]


def place(parts: Parts, offset: Point = (0.0, 0.0, 0.0), yaw_rad: float = 0.0, scale: float = 1.0) -> Parts:
    """Every part scaled, turned about z and shifted."""
    return [(patch.moved(offset, yaw_rad, scale), material) for patch, material in parts]


@dataclass
class Builder:
    """Collects named objects into a world."""

    parts: list[tuple[Patch, Material, int]] = field(default_factory=list)
    """Every patch with its material and object index."""
    labels: list[str] = field(default_factory=list)
    """Name of each object in captions; empty for objects that captions omit."""

    def add(self, label: str, parts: Parts) -> int:
        """Adds one object; returns its index."""
        self.labels.append(label)
        self.parts.extend((patch, material, len(self.labels) - 1) for patch, material in parts)
        return len(self.labels) - 1

    def build(self) -> "Mesh":
        """All patches as one triangle mesh, every face turned so that it winds about its vertices' normals."""
        materials = list(dict.fromkeys(material for _, material, _ in self.parts))
        number = {material: index for index, material in enumerate(materials)}
        starts = np.cumsum([0] + [len(patch.vertices) for patch, _, _ in self.parts])
        counts = [len(patch.faces) for patch, _, _ in self.parts]
        vertices = np.concatenate([patch.vertices for patch, _, _ in self.parts])
        normals = np.concatenate([patch.normals for patch, _, _ in self.parts])
        faces = np.concatenate([p.faces + start for (p, _, _), start in zip(self.parts, starts, strict=False)])
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        wrong = dot(cross(b - a, c - a), normals[faces[:, 0]] + normals[faces[:, 1]] + normals[faces[:, 2]]) < 0
        faces[wrong] = faces[wrong][:, ::-1]
        return Mesh(
            vertices=vertices,
            normals=normals,
            uv=np.concatenate([patch.uv / material.tile_m for patch, material, _ in self.parts]),
            faces=faces,
            material=np.repeat([number[material] for _, material, _ in self.parts], counts),
            label=np.repeat([label for _, _, label in self.parts], counts),
            light_m=np.repeat([m.light_m for _, m, _ in self.parts], np.diff(starts)),
            materials=tuple(materials),
            labels=tuple(self.labels),
        )


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """The whole world as one indexed triangle mesh."""

    vertices: Float[np.ndarray, "v 3"]
    """Positions."""
    normals: Float[np.ndarray, "v 3"]
    """Unit shading normals."""
    uv: Float[np.ndarray, "v 2"]
    """Texture coordinates in tiles."""
    faces: Int[np.ndarray, "t 3"]
    """Vertex indices."""
    material: Int[np.ndarray, " t"]
    """Index into `materials`."""
    label: Int[np.ndarray, " t"]
    """Index into `labels`."""
    light_m: Float[np.ndarray, " v"]
    """Grain of baked light."""
    materials: tuple[Material, ...]
    """Distinct materials."""
    labels: tuple[str, ...]
    """Names of the objects."""

    @cached_property
    def triangles(self) -> Float[np.ndarray, "t 3 3"]:
        """Corner positions."""
        return self.vertices[self.faces]

    @cached_property
    def face_normals(self) -> Float[np.ndarray, "t 3"]:
        """Unit normals of the triangles' planes, on the counter-clockwise side."""
        corners = self.triangles
        normal = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return unit(normal)
