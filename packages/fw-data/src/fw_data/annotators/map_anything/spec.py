"""Spec of the `map-anything` backend."""

from dataclasses import dataclass
from typing import ClassVar

from fw_data.annotators.multiview.spec import ANY_USE, NO_COMMERCE, MultiViewSpec


@dataclass(frozen=True, kw_only=True)
class MapAnythingSpec(MultiViewSpec):
    """MapAnything; its package is under Apache-2.0."""

    backend_name: ClassVar[str] = "map-anything"
    package: ClassVar[str] = "mapanything"
    install: ClassVar[str] = "mapanything @ git+https://github.com/facebookresearch/map-anything"
    network: ClassVar[str] = "fw_data.annotators.map_anything.network:MapAnythingNetwork"
    license: ClassVar[str] = "Apache-2.0 (map-anything-apache); CC BY-NC 4.0 (map-anything)"
    released: ClassVar[dict[str, str]] = {
        "facebook/map-anything-apache": ANY_USE,
        "facebook/map-anything": NO_COMMERCE,
    }
