"""The backend of networks that read all frames at once: images to the network, its cameras and depth to the clip.

OpenCV axes, poses camera-to-world, first pose identity. Axis legend: f frames, h height, w width; a height and b width
of the network's images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from fw_data.annotators.base import AnnotationRefused, ClipGeometry, ProgressCallback, StageProgress

STAGES = {"network": 0.0, "depth": 0.9}
"""Start of each stage, as a fraction of the whole work."""
SCORE_MEANINGS = {
    "network_trust": "median confidence of the network in its depth, 0 to 1",
    "focal_spread": "standard deviation over the frames of the logarithm of the focal length",
}


@dataclass(frozen=True, kw_only=True)
class ViewGeometry:
    """Geometry that a network predicts for its images."""

    depth: Float32[np.ndarray, "f a b"]
    """z-depth."""
    certainty: Float32[np.ndarray, "f a b"]
    """1 + exp(x) of the network's output: 1 is a guess, and there is no upper end."""
    known: Bool[np.ndarray, "f a b"]
    """False for sky and for what the network masks."""
    K: Float64[np.ndarray, "f 3 3"]
    """In pixels of the network's images, pixel centers at + 0.5."""
    pose_c2w: Float64[np.ndarray, "f 4 4"]
    metric: bool
    """Whether depth and poses are in meters."""


@runtime_checkable
class MultiViewNetwork(Protocol):
    """A network behind the interface of its authors."""

    name: str
    """Of the backend."""
    version: str
    """Changes with the pre- and post-processing."""

    def predict(self, frames: UInt8[np.ndarray, "f h w 3"]) -> ViewGeometry:
        """The scene of sRGB frames; the images that the network sees show exactly the frames, at another size."""
        ...


class LoadableNetwork(MultiViewNetwork, Protocol):
    """A network that a spec of this package names."""

    @classmethod
    def load(cls, folder: Path, device: str) -> "MultiViewNetwork":
        """The network with model.safetensors and config.json of a folder."""
        ...


class MultiViewBackend:
    """Geometry of a clip from one pass of a network over all its frames. Scores: see SCORE_MEANINGS."""

    def __init__(self, network: MultiViewNetwork) -> None:
        self.network = network
        self.name, self.version = network.name, network.version

    def annotate(
        self, frames: UInt8[np.ndarray, "f h w 3"], *, progress: ProgressCallback | None = None
    ) -> ClipGeometry:
        """Geometry of each frame (sRGB, uint8); raises AnnotationRefused if the network trusts nothing."""
        height, width = frames.shape[1:3]
        report = StageProgress(STAGES, progress)
        report("network", 0.0)
        seen = self.network.predict(frames)
        report("depth", 0.0)
        if not (np.isfinite(seen.K).all() and np.isfinite(seen.pose_c2w).all()):
            raise AnnotationRefused(
                "no-confidence", f"{self.name} predicted cameras that are not finite.", "Try another --geometry."
            )
        valid = seen.known & np.isfinite(seen.depth) & (seen.depth > 0) & np.isfinite(seen.certainty)
        trust = np.where(valid, 1 - 1 / np.maximum(np.where(valid, seen.certainty, 1), 1), 0).astype(np.float32)
        if not (trust > 0).any():
            raise AnnotationRefused(
                "no-confidence",
                f"{self.name} trusts none of its depth: the images may be black, plain or blurred.",
                "Use sharp footage with visible detail.",
            )
        tall, wide = seen.depth.shape[1:]
        K = seen.K * np.array([[width / wide], [height / tall], [1.0]])
        pose = rigid(seen.pose_c2w)
        pose = np.linalg.inv(pose[0]) @ pose
        pose[0] = np.eye(4)
        frame_trust = np.array([np.median(part[ok]) if ok.any() else 0 for part, ok in zip(trust, valid, strict=True)])
        report("depth", 1.0)
        return ClipGeometry(
            depth_m=_enlarged(np.where(valid, seen.depth, 0).astype(np.float32), height, width),
            confidence=_enlarged(trust, height, width),
            K=K,
            pose_c2w=pose,
            pose_confidence=frame_trust.astype(np.float32),
            units="metric" if seen.metric else "scene",
            scores={
                "network_trust": float(np.median(trust[valid])),
                "focal_spread": float(np.log(K[:, 0, 0] * K[:, 1, 1]).std() / 2),
            },
        )


def fitted(frames: UInt8[np.ndarray, "f h w 3"], long_side: int, multiple: int) -> UInt8[np.ndarray, "f a b 3"]:
    """The frames with the long side at `long_side`, and both sides at the nearest multiple: no pixel is cut off."""
    height, width = frames.shape[1:3]
    scale = long_side / max(height, width)
    size = [max(multiple, multiple * round(scale * side / multiple)) for side in (width, height)]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, size, interpolation=method) for frame in frames])


def rigid(pose: Float64[np.ndarray, "f 4 4"]) -> Float64[np.ndarray, "f 4 4"]:
    """The nearest rigid motions: networks in half precision turn by matrices that are no rotations."""
    u, _, v = np.linalg.svd(pose[:, :3, :3])
    u[:, :, 2] *= np.sign(np.linalg.det(u @ v))[:, None]
    result = pose.copy()
    result[:, :3, :3] = u @ v
    return result


def as_4x4(pose: np.ndarray) -> Float64[np.ndarray, "f 4 4"]:
    """Poses (f, 3, 4) or (f, 4, 4) as the latter."""
    full = np.tile(np.eye(4), (len(pose), 1, 1))
    full[:, :3] = pose[:, :3]
    return full


def _enlarged(maps: Float32[np.ndarray, "f a b"], height: int, width: int) -> Float32[np.ndarray, "f h w"]:
    return np.stack([cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for part in maps])
