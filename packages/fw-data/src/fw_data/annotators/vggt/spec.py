"""Spec of the `vggt` backend."""

from dataclasses import dataclass
from typing import ClassVar

from fw_data.annotators.multiview.spec import NO_COMMERCE, MultiViewSpec


@dataclass(frozen=True, kw_only=True)
class VggtSpec(MultiViewSpec):
    """VGGT; the package is under the VGGT license."""

    backend_name: ClassVar[str] = "vggt"
    package: ClassVar[str] = "vggt"
    install: ClassVar[str] = "vggt @ git+https://github.com/facebookresearch/vggt"
    network: ClassVar[str] = "fw_data.annotators.vggt.network:VggtNetwork"
    license: ClassVar[str] = "CC BY-NC 4.0 (VGGT-1B: no commercial use)"
    released: ClassVar[dict[str, str]] = {
        "facebook/VGGT-1B": NO_COMMERCE,
        "facebook/VGGT-1B-Commercial": "VGGT license (commercial use, not for military purposes; access on request)",
    }
