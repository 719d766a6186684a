"""Spec of the `map-anything` backend."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotators.multiview.spec import MultiViewSpec

if TYPE_CHECKING:
    from fw_data.annotators.checkpoints import Release
    from fw_data.annotators.multiview.backend import MultiViewNetwork


@dataclass(frozen=True, kw_only=True)
class MapAnythingSpec(MultiViewSpec):
    """MapAnything; its package is under Apache-2.0."""

    backend_name: ClassVar[str] = "map-anything"
    package: ClassVar[str] = "mapanything"
    install: ClassVar[str] = "mapanything @ git+https://github.com/facebookresearch/map-anything"
    license: ClassVar[str] = "Apache-2.0 (map-anything-apache); CC BY-NC 4.0 (map-anything)"

    @staticmethod
    def releases() -> "tuple[Release, ...]":
        """Published weights."""
        from fw_data.annotators.checkpoints import Release

        return (
            Release(
                name="map-anything-apache",
                hub_id="facebook/map-anything-apache",
                license="Apache-2.0 (any use)",
                permissive=True,
            ),
            Release(
                name="map-anything",
                hub_id="facebook/map-anything",
                license="CC BY-NC 4.0 (no commercial use)",
                permissive=False,
            ),
        )

    @staticmethod
    def load_network(folder: Path, device: str) -> "MultiViewNetwork":
        """The network with the weights of a folder."""
        from fw_data.annotators.map_anything.network import load

        return load(folder, device)

    @property
    def version(self) -> str:
        """Version of the backend."""
        from fw_data.annotators.map_anything.network import MapAnythingNetwork

        return MapAnythingNetwork.version
