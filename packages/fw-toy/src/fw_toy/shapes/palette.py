"""Materials drawn at random from a texture kind: variant, tint and the size that suits the kind.

Axis legend: none; sizes in meters, colors linear.
"""

from typing import Any

import numpy as np

from fw_toy.shapes.mesh import Material, Rgb
from fw_toy.textures.atlas import VARIANTS

_TILE_M = {
    "brick": 1.15, "rubble": 2.6, "ashlar": 2.4, "cobbles": 2.4, "plaster": 2.6, "concrete": 3.0, "tiles": 1.8,
    "slabs": 2.4, "marble": 1.8, "shingles": 2.2, "metal": 1.0, "wallpaper": 1.5, "grass": 2.6, "gravel": 1.6,
    "dirt": 2.6, "rock": 2.2, "bark": 1.0, "leaves": 1.5, "straw": 1.2, "sand": 2.4, "wood": 0.9, "planks": 1.9,
    "boards": 1.6, "fabric": 0.7, "rug": 1.0, "painting": 1.0, "books": 1.0, "paper": 0.6, "pottery": 0.7,
}  # fmt: skip
_BUMP = {"slabs": 0.6, "tiles": 0.5, "fabric": 0.7, "grass": 0.8, "leaves": 0.8}


def paint(rng: np.random.Generator, *kinds: str, **changes: Any) -> Material:
    """A material of one of the kinds; `changes` override any field of `Material`."""
    kind = kinds[int(rng.integers(len(kinds)))]
    gray, r, g, b = rng.uniform(0.85, 1.1), *rng.uniform(0.94, 1.06, 3)
    values: dict[str, Any] = {
        "texture": kind,
        "variant": int(rng.integers(VARIANTS)),
        "tint": (float(gray * r), float(gray * g), float(gray * b)),
        "tile_m": _TILE_M[kind],
        "bump": _BUMP.get(kind, 1.0),
        "gloss": 0.5,
        "light_m": 0.6 if kind == "leaves" else 0.12,
    }
    if kind == "leaves":
        values["tint"] = (float(1.7 * r), float(1.6 * g), float(1.4 * b))
    return Material(**(values | changes))


def glow(color: Rgb, strength: float) -> Material:
    """An emissive surface, like a lamp's shade."""
    r, g, b = color
    return Material(texture="paper", tint=color, tile_m=0.6, emission=(r * strength, g * strength, b * strength))
