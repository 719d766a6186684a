"""A clip in memory, and its files: the one place that packs and unpacks the members of a shard.

Axis legend: f frames, h height, w width, 3 = RGB or xyz. Conventions: see fw_data.dataset.schema.CONVENTIONS.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from fw_data.dataset import depth_codec
from fw_data.dataset.schema import MASK_SUFFIX, ClipRecord
from fw_data.errors import DataError
from fw_data.media.stored import encode_video

MOVING, SKY = 1, 2
"""Bits of mask.zst."""
CAMERA_KEYS = ("K", "pose_c2w", "pose_confidence", "frame_index", "time_s")


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """Contents of cameras.npz: one entry per stored frame."""

    K: Float64[np.ndarray, "f 3 3"]
    """Intrinsics in pixels of the stored frames."""
    pose_c2w: Float64[np.ndarray, "f 4 4"]
    """Camera-to-world; the first frame of the clip is the identity."""
    pose_confidence: Float32[np.ndarray, " f"]
    """Trust in each pose, in [0, 1]."""
    frame_index: Int64[np.ndarray, " f"]
    """Index among the decoded frames of the source."""
    time_s: Float64[np.ndarray, " f"]
    """Presentation time in the source."""

    def select(self, frames: slice | Sequence[int]) -> "Cameras":
        """The entries of some frames."""
        rows = frames if isinstance(frames, slice) else list(frames)
        return Cameras(**{name: getattr(self, name)[rows] for name in CAMERA_KEYS})


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames of one annotated clip, everything at the same size and count."""

    id: str
    """Id of the clip in its dataset."""
    video: UInt8[np.ndarray, "f h w 3"]
    """RGB."""
    depth_m: Float32[np.ndarray, "f h w"]
    """z-depth in `units`; 0 = invalid."""
    confidence: Float32[np.ndarray, "f h w"]
    """Trust in the depth, in [0, 1]."""
    K: Float64[np.ndarray, "f 3 3"]
    """Intrinsics in pixels."""
    pose_c2w: Float64[np.ndarray, "f 4 4"]
    """Camera-to-world, in the frame of the clip's first camera (also for a window of frames)."""
    pose_confidence: Float32[np.ndarray, " f"]
    """Trust in each pose, in [0, 1]."""
    caption: str
    """May be empty."""
    fps: float
    """Frames per second of these frames."""
    units: Literal["scene", "metric"]
    """Unit of depth and translation."""
    frame_index: Int64[np.ndarray, " f"] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Index of each frame among the decoded frames of the source."""
    moving: Bool[np.ndarray, "f h w"] | None = None
    """Moving pixels; None if the dataset has no masks."""
    sky: Bool[np.ndarray, "f h w"] | None = None
    """Open sky; None if the dataset has no masks."""

    def __len__(self) -> int:
        return len(self.video)

    @property
    def valid(self) -> Bool[np.ndarray, "f h w"]:
        """True for pixels with depth."""
        return self.depth_m > 0

    @property
    def points_world(self) -> Float32[np.ndarray, "f h w 3"]:
        """Point map in the clip's world frame, derived from depth, K and pose; 0 where `valid` is False."""
        import torch

        from fw_geometry.rays import unproject

        depth, K, pose = (torch.from_numpy(a.astype(np.float64)) for a in (self.depth_m, self.K, self.pose_c2w))
        points = unproject(depth, K, pose).numpy().astype(np.float32)
        return np.where(self.valid[..., None], points, np.float32(0))


def pack_clip(
    record: ClipRecord,
    *,
    video: UInt8[np.ndarray, "f h w 3"],
    depth_m: Float32[np.ndarray, "f h w"],
    confidence: Float32[np.ndarray, "f h w"],
    cameras: Cameras,
    crf: int,
    labels: UInt8[np.ndarray, "f h w"] | None = None,
) -> dict[str, bytes]:
    """The files of a clip, by suffix (record.suffixes; without `has_depth` neither depth nor confidence).

    `labels` (bits MOVING and SKY) go with `has_masks`; ValueError when there is only one of the two.
    """
    if record.has_masks != (labels is not None):
        raise ValueError(f"clip {record.id}: has_masks is {record.has_masks}, labels are {type(labels).__name__}")
    files = {
        "mp4": encode_video(video, record.fps, crf),
        "cameras.npz": pack_cameras(cameras),
        "json": record.model_dump_json(exclude={"shard", "members"}, indent=1).encode(),
    }
    if record.has_depth:
        files["depth.zst"] = depth_codec.encode_depth(depth_m)
        files["conf.zst"] = depth_codec.encode_confidence(confidence)
    if labels is not None:
        files[MASK_SUFFIX] = depth_codec.encode_labels(labels)
    return files


def pack_cameras(cameras: Cameras) -> bytes:
    """The bytes of cameras.npz; the same cameras give the same bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in CAMERA_KEYS:
            array = io.BytesIO()
            np.save(array, getattr(cameras, name), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), array.getvalue(), zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def unpack_cameras(data: bytes) -> Cameras:
    """Read cameras.npz; raises DataError when an array is missing or has another shape."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in CAMERA_KEYS}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError("clip-cameras", f"cameras.npz does not read: {error}") from error
    frames = len(found["K"])
    shapes = {"K": (frames, 3, 3), "pose_c2w": (frames, 4, 4)}
    for name, array in found.items():
        if array.shape != shapes.get(name, (frames,)):
            raise DataError("clip-cameras", f"cameras.npz: {name} has shape {array.shape} for {frames} frames")
    return Cameras(**found)
