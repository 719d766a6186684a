"""VGGT behind the interface of its authors' package `vggt`.

Axis legend: f frames, h height, w width; a height and b width of the network's images.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from scipy.spatial.transform import Rotation

from fw_data.annotators.multiview.backend import ViewGeometry, fitted

LONG_SIDE = 518
PATCH = 14


class VggtNetwork:
    """All frames in one pass, the long side at 518 pixels (the published demo does so too, for landscape images)."""

    name = "vggt"
    version = "2"

    def __init__(self, model: Any, device: str) -> None:
        self.model, self.device = model, device

    @classmethod
    def load(cls, folder: Path, device: str) -> "VggtNetwork":
        """The network with model.safetensors and config.json of a folder."""
        from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports] - installed by those who use it

        return cls(VGGT.from_pretrained(str(folder)).eval().to(device), device)

    def predict(self, frames: UInt8[np.ndarray, "f h w 3"]) -> ViewGeometry:
        """See MultiViewNetwork."""
        images = torch.from_numpy(fitted(frames, LONG_SIDE, PATCH)).permute(0, 3, 1, 2).to(self.device).float() / 255
        half = torch.device(self.device).type == "cuda"
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=half):
            found = self.model(images)
        depth, certainty, pose = (found[key][0].float().cpu().numpy() for key in ("depth", "depth_conf", "pose_enc"))
        K, pose_w2c = decode_cameras(pose.astype(np.float64), *images.shape[-2:])
        return ViewGeometry(
            depth=depth[..., 0],
            certainty=certainty,
            known=np.ones(certainty.shape, bool),
            K=K,
            pose_c2w=np.linalg.inv(pose_w2c),
            metric=False,
        )


def decode_cameras(
    encoded: Float64[np.ndarray, "f 9"], height: int, width: int
) -> tuple[Float64[np.ndarray, "f 3 3"], Float64[np.ndarray, "f 4 4"]]:
    """K and world-to-camera poses: translation, quaternion (x, y, z, w), vertical and horizontal field of view."""
    K = np.tile(np.eye(3), (len(encoded), 1, 1))
    K[:, 0, 0] = width / 2 / np.tan(encoded[:, 8] / 2)
    K[:, 1, 1] = height / 2 / np.tan(encoded[:, 7] / 2)
    K[:, 0, 2], K[:, 1, 2] = width / 2, height / 2
    pose = np.tile(np.eye(4), (len(encoded), 1, 1))
    pose[:, :3, :3] = Rotation.from_quat(encoded[:, 3:7]).as_matrix()
    pose[:, :3, 3] = encoded[:, :3]
    return K, pose
