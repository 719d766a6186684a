"""A scene ready for rendering: mesh, atlas, lights, tracer and baked light; the recipe of one clip's world.

Axis legend: v vertices, t triangles; z is up, metres.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from fw_data.toy.atlas import SIDES, Atlas
from fw_data.toy.lights import Lighting
from fw_data.toy.mesh import Builder, Mesh
from fw_data.toy.tracer import Tracer, make_tracer

Kind = Literal["indoor", "outdoor"]


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What the scene builders hand over: things, light, and what the camera and the captions need to know."""

    kind: Kind
    """Indoor or outdoor."""
    builder: Builder
    """All objects."""
    lighting: Lighting
    """Sun, sky, lamps."""
    setting: str
    """The place in words, as a caption begins: 'a sunlit village yard'."""
    focus: Float[np.ndarray, " 3"]
    """Where the interesting things are; cameras look about here."""
    low: Float[np.ndarray, " 3"]
    """Corner of the box that cameras stay in."""
    high: Float[np.ndarray, " 3"]
    """Opposite corner of that box."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a frame is rendered from."""

    blueprint: Blueprint
    """Where it came from."""
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


def assemble(blueprint: Blueprint, *, fine: bool = True) -> Scene:
    """Builds mesh, textures and tracer, and bakes the light; `fine` for pictures of more than about 128 rows."""
    from fw_data.toy.bake import bake

    mesh = blueprint.builder.build()
    names = list(dict.fromkeys((material.texture, material.variant) for material in mesh.materials))
    atlas = Atlas(names, SIDES[1] if fine else SIDES[0])
    slot = np.array([names.index((material.texture, material.variant)) for material in mesh.materials])
    tracer = make_tracer(mesh.triangles)
    albedo = atlas.means()[slot, :3] * np.array([material.tint for material in mesh.materials], np.float32)
    irradiance = bake(mesh, tracer, blueprint.lighting, albedo, rays=96 if fine else 40)
    return Scene(blueprint=blueprint, mesh=mesh, atlas=atlas, slot=slot, tracer=tracer, irradiance=irradiance)
