"""Spec of the `vggt` backend."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fw_data.annotators.multiview.spec import MultiViewSpec

if TYPE_CHECKING:
    from fw_data.annotators.checkpoints import Release
    from fw_data.annotators.multiview.backend import MultiViewNetwork


@dataclass(frozen=True, kw_only=True)
class VggtSpec(MultiViewSpec):
    """VGGT; the package is under the VGGT license."""

    backend_name: ClassVar[str] = "vggt"
    package: ClassVar[str] = "vggt"
    install: ClassVar[str] = "vggt @ git+https://github.com/facebookresearch/vggt"
    license: ClassVar[str] = "CC BY-NC 4.0 (VGGT-1B: no commercial use)"

    @staticmethod
    def releases() -> "tuple[Release, ...]":
        """Published weights."""
        from fw_data.annotators.checkpoints import Release

        return (
            Release(
                name="vggt-1b",
                hub_id="facebook/VGGT-1B",
                license="CC BY-NC 4.0 (no commercial use)",
                permissive=False,
            ),
            Release(
                name="vggt-1b-commercial",
                hub_id="facebook/VGGT-1B-Commercial",
                license="VGGT license (commercial use, not for military purposes; access on request)",
                permissive=False,
            ),
        )

    @staticmethod
    def load_network(folder: Path, device: str) -> "MultiViewNetwork":
        """The network with the weights of a folder."""
        from fw_data.annotators.vggt.network import load

        return load(folder, device)

    @property
    def version(self) -> str:
        """Version of the backend."""
        from fw_data.annotators.vggt.network import VggtNetwork

        return VggtNetwork.version
