"""Spec of the `depth-anything-3` backend."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotators.multiview.spec import MultiViewSpec

if TYPE_CHECKING:
    from fw_data.annotators.checkpoints import Release
    from fw_data.annotators.multiview.backend import MultiViewNetwork

_OPEN = "Apache-2.0 (any use)"
_CLOSED = "CC BY-NC 4.0 (no commercial use)"


@dataclass(frozen=True, kw_only=True)
class DepthAnything3Spec(MultiViewSpec):
    """Depth Anything 3, any-view releases."""

    backend_name: ClassVar[str] = "depth-anything-3"
    package: ClassVar[str] = "depth_anything_3"
    install: ClassVar[str] = "depth-anything-3 @ git+https://github.com/ByteDance-Seed/Depth-Anything-3"
    license: ClassVar[str] = "Apache-2.0 (Base, Small); CC BY-NC 4.0 (Large, Giant, Nested)"

    @staticmethod
    def releases() -> "tuple[Release, ...]":
        """Published weights."""
        from fw_data.annotators.checkpoints import Release

        names = {"BASE": _OPEN, "SMALL": _OPEN, "LARGE-1.1": _CLOSED, "GIANT-1.1": _CLOSED}
        names["NESTED-GIANT-LARGE-1.1"] = _CLOSED
        return tuple(
            Release(
                name=name.lower(),
                hub_id=f"depth-anything/DA3{'' if name.startswith('NESTED') else '-'}{name}",
                license=terms,
                permissive=terms == _OPEN,
            )
            for name, terms in names.items()
        )

    @staticmethod
    def load_network(folder: Path, device: str) -> "MultiViewNetwork":
        """The network with the weights of a folder."""
        from fw_data.annotators.depth_anything_3.network import load

        return load(folder, device)

    @property
    def version(self) -> str:
        """Version of the backend."""
        from fw_data.annotators.depth_anything_3.network import DepthAnything3Network

        return DepthAnything3Network.version
