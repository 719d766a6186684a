"""Spec of the `depth-anything-3` backend."""

from dataclasses import dataclass
from typing import ClassVar

from fw_data.annotators.multiview.spec import ANY_USE, NO_COMMERCE, MultiViewSpec


@dataclass(frozen=True, kw_only=True)
class DepthAnything3Spec(MultiViewSpec):
    """Depth Anything 3, any-view releases."""

    backend_name: ClassVar[str] = "depth-anything-3"
    package: ClassVar[str] = "depth_anything_3"
    install: ClassVar[str] = "depth-anything-3 @ git+https://github.com/ByteDance-Seed/Depth-Anything-3"
    network: ClassVar[str] = "fw_data.annotators.depth_anything_3.network:DepthAnything3Network"
    license: ClassVar[str] = "Apache-2.0 (Base, Small); CC BY-NC 4.0 (Large, Giant, Nested)"
    released: ClassVar[dict[str, str]] = {
        "depth-anything/DA3-BASE": ANY_USE,
        "depth-anything/DA3-SMALL": ANY_USE,
        "depth-anything/DA3-LARGE-1.1": NO_COMMERCE,
        "depth-anything/DA3-GIANT-1.1": NO_COMMERCE,
        "depth-anything/DA3NESTED-GIANT-LARGE-1.1": NO_COMMERCE,
    }
