"""A scene ready for rendering: mesh, atlas, lights, tracer and baked light; the recipe of one clip's world.

Axis legend: v vertices, t triangles; z is up, meters.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from fw_toy.rendering.bake import bake
from fw_toy.rendering.lights import Lighting
from fw_toy.rendering.tracer import Tracer, make_tracer
from fw_toy.shapes.mesh import Builder, Mesh
from fw_toy.textures.atlas import SIDES, Atlas
from fw_toy.vectors import cross, dot, unit

_BAKE_RAYS = (32, 40, 96)
Kind = Literal["indoor", "outdoor"]


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """Result of the scene builders: things, light, and data for camera and captions."""

    kind: Kind
    """Indoor or outdoor."""
    builder: Builder
    """All objects."""
    lighting: Lighting
    """Sun, sky, lamps."""
    setting: str
    """The place in words, as a caption begins: 'a sunlit village yard'."""
    focus: Float[np.ndarray, " 3"]
    """Place of the interesting things; cameras look around here."""
    low: Float[np.ndarray, " 3"]
    """Corner of the box that cameras stay in."""
    high: Float[np.ndarray, " 3"]
    """Opposite corner of that box."""


@dataclass(frozen=True, kw_only=True)
class ToyScene:
    """Everything that a frame is rendered from."""

    blueprint: Blueprint
    """Name of its source."""
    mesh: Mesh
    """The triangles."""
    atlas: Atlas
    """The mesh's textures."""
    slot: Int[np.ndarray, " k"]
    """Atlas slot of every material."""
    tracer: Tracer
    """Ray caster over the mesh."""
    irradiance: Float[np.ndarray, "v 3"]
    """Baked light from sky and bounces at every vertex."""

    @cached_property
    def attributes(self) -> Float[np.ndarray, "t 42"]:
        """Shading data of each triangle, one float32 row for one gather.

        Columns: corner 0:3, dual edges 3:9, unit tangents of u and v 9:15, plane normal 15:18, then uv, normal and
        baked light at the corner 18:26 and their change along the two edges 26:34, 34:42.
        """
        mesh, corners = self.mesh, self.mesh.triangles.astype(np.float32)
        p0, e1, e2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        n = mesh.face_normals.astype(np.float32)
        g1, g2 = cross(e2, n), cross(n, e1)
        g1, g2 = g1 / dot(g1, e1)[:, None], g2 / dot(g2, e2)[:, None]
        values = np.concatenate([mesh.uv, mesh.normals, self.irradiance], -1).astype(np.float32)[mesh.faces]
        a0, d1, d2 = values[:, 0], values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]
        tangents = [unit(g1 * d1[:, k : k + 1] + g2 * d2[:, k : k + 1]) for k in (0, 1)]
        return np.concatenate([p0, g1, g2, *tangents, n, a0, d1, d2], -1)


def assemble(blueprint: Blueprint, *, rows: int) -> ToyScene:
    """Builds mesh, textures and tracer, and bakes the light, as finely as images of so many rows need."""
    grade = int(rows > 48) + int(rows > 128)
    mesh = blueprint.builder.build()
    names = list(dict.fromkeys((material.texture, material.variant) for material in mesh.materials))
    atlas = Atlas(names, SIDES[grade])
    slot = np.array([names.index((material.texture, material.variant)) for material in mesh.materials])
    tracer = make_tracer(mesh.triangles)
    albedo = atlas.means()[slot, :3] * np.array([material.tint for material in mesh.materials], np.float32)
    irradiance = bake(mesh, tracer, blueprint.lighting, albedo, rays=_BAKE_RAYS[grade])
    return ToyScene(blueprint=blueprint, mesh=mesh, atlas=atlas, slot=slot, tracer=tracer, irradiance=irradiance)
