"""MapAnything behind the interface of its authors' package `mapanything`.

Axis legend: f frames, h height, w width; a height and b width of the network's images.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fw_data.annotators.multiview.backend import ViewGeometry, fitted

LONG_SIDE = 518
PATCH = 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the normalization that the network calls "dinov2"."""


class MapAnythingNetwork:
    """All frames in one pass, the long side at 518 pixels, normalized as for DINOv2."""

    name = "map-anything"
    version = "2"

    def __init__(self, model: Any, device: str) -> None:
        self.model, self.device = model, device

    @classmethod
    def load(cls, folder: Path, device: str) -> "MapAnythingNetwork":
        """The network with model.safetensors and config.json of a folder."""
        from mapanything.models import MapAnything  # pyright: ignore[reportMissingImports] - see vggt.network

        return cls(MapAnything.from_pretrained(str(folder)).eval().to(device), device)

    def predict(self, frames: UInt8[np.ndarray, "f h w 3"]) -> ViewGeometry:
        """See MultiViewNetwork."""
        images = torch.from_numpy(fitted(frames, LONG_SIDE, PATCH)).permute(0, 3, 1, 2).float() / 255
        images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        views = [{"img": image[None].to(self.device), "data_norm_type": ["dinov2"]} for image in images]
        with torch.inference_mode():
            found = self.model.infer(views, memory_efficient_inference=True, apply_mask=True, mask_edges=True)
        depth, certainty, mask, K, pose = (
            np.stack([view[key][0].float().cpu().numpy() for view in found])
            for key in ("depth_z", "conf", "mask", "intrinsics", "camera_poses")
        )
        return ViewGeometry(
            depth=depth[..., 0],
            certainty=certainty,
            known=mask[..., 0] > 0.5,
            K=K.astype(np.float64),
            pose_c2w=pose.astype(np.float64),
            metric=True,
        )
