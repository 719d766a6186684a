"""Depth Anything 3 behind the interface of its authors' package `depth_anything_3`.

Axis legend: f frames, h height, w width.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fw_data.annotators.multiview.backend import ViewGeometry, as_4x4

LONG_SIDE = 504


class DepthAnything3Network:
    """All frames in one pass; the package scales them to 504 pixels on the long side and normalizes them."""

    name = "depth-anything-3"
    version = "2"

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def load(cls, folder: Path, device: str) -> "DepthAnything3Network":
        """The network with model.safetensors and config.json of a folder."""
        from depth_anything_3.api import DepthAnything3  # pyright: ignore[reportMissingImports] - see vggt.network

        return cls(DepthAnything3.from_pretrained(str(folder)).eval().to(device))

    def predict(self, frames: UInt8[np.ndarray, "f h w 3"]) -> ViewGeometry:
        """See MultiViewNetwork. Raises ValueError for the monocular releases, which have no cameras."""
        found = self.model.inference(list(frames), process_res=LONG_SIDE, process_res_method="upper_bound_resize")
        if found.extrinsics is None or found.intrinsics is None:
            raise ValueError(
                "These weights of Depth Anything 3 predict no cameras; use an any-view release such as "
                "depth-anything/DA3-BASE."
            )
        depth = np.asarray(found.depth, np.float32)
        certainty = np.full_like(depth, 2.0) if found.conf is None else np.asarray(found.conf, np.float32)
        return ViewGeometry(
            depth=depth,
            certainty=certainty,
            known=np.ones(depth.shape, bool) if found.sky is None else ~np.asarray(found.sky, bool),
            K=np.asarray(found.intrinsics, np.float64),
            pose_c2w=np.linalg.inv(as_4x4(np.asarray(found.extrinsics, np.float64))),
            metric=bool(found.is_metric),
        )
