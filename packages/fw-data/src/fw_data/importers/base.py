"""A scene from elsewhere: frames on disk with a camera each, perhaps with depth.

Axis legend: f frames, h height, w width, 3 = RGB. Conventions: see fw_data.dataset.schema.CONVENTIONS.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from fw_core.images import ImageError, read_image
from fw_data.errors import DataError
from fw_data.media.decode import read_clip, read_frames
from fw_data.media.probe import MediaLimits, VideoInfo, probe
from fw_data.media.resize import ResizeCrop
from fw_geometry.camera import Trajectory
from fw_geometry.formats.plausible import foreign_size

LIMITS = MediaLimits()
DepthReader = Callable[[int], Float32[np.ndarray, "h w"] | None]
"""Frame index to z-depth in the scene's unit, 0 = invalid; None where that frame has none."""


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Settings for data that the folder does not contain."""

    fps: float = 24.0
    """Frame rate of frames without time stamps."""
    units: Literal["auto", "scene", "metric"] = "auto"
    """auto: metric for tum, the stored unit for a nerfstudio export of fw-data, else scene."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels, for tum folders without calibration.txt."""
    depth_unit: float | None = None
    """ImportedScene units per stored depth unit; the format's own by default."""
    interpolate: bool = False
    """Interpolate poses between posed frames of a video, in place of leaving those frames out."""


@runtime_checkable
class Frames(Protocol):
    """The images of a scene."""

    height: int
    width: int
    count: int

    def read(self, start: int, count: int, placement: ResizeCrop) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames at their stored size."""
        ...

    def sha256(self) -> str:
        """Checksum of the files."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImportedScene:
    """Frames, cameras and what else is known of them."""

    frames: Frames
    """The images."""
    cameras: Trajectory
    """One camera per frame, K in pixels of the images; the first pose may be anything."""
    time_s: Float64[np.ndarray, " f"]
    """Increasing."""
    depth: DepthReader | None
    """None: the scene has no depth at all."""
    caption: str = ""
    """May be empty."""
    notes: list[str] = field(default_factory=list)
    """Notes for the record."""
    posed: Sequence[tuple[int, int]] | None = None
    """Half-open stretches of frames that have a camera; None = all."""
    frame_index: Int64[np.ndarray, " f"] | None = None
    """Frame of the source that each frame is; None = all of them in order."""
    name: str = ""
    """Tells the scenes of one file apart."""


class ImageFrames:
    """Image files in order, as stored: cameras belong to the pixels of the file, whatever its EXIF orientation."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.change: Callable[[int, UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w 3"]] | None = None
        missing = [path for path in paths if not path.is_file()]
        if missing or not paths:
            first = f"; the first is {missing[0]}" if missing else ""
            raise DataError("no-frames", f"{len(missing)} of {len(paths)} images are missing{first}")
        self.paths, self.count = list(paths), len(paths)
        self.height, self.width = self._decode(self.paths[0]).shape[:2]
        if min(self.width, self.height) < LIMITS.min_side:
            raise DataError("size", f"{self.paths[0].name} is {self.width}x{self.height}")

    def read(self, start: int, count: int, placement: ResizeCrop) -> UInt8[np.ndarray, "f h w 3"]:
        """Decoded, as RGB; DataError for an image that does not decode or whose size differs from the first."""
        out = np.empty((count, placement.height, placement.width, 3), np.uint8)
        for row, path in enumerate(self.paths[start : start + count]):
            image = self._decode(path)
            if image.shape[:2] != (self.height, self.width):
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise DataError("size", f"{path} is {size}, the first image {self.width}x{self.height}")
            out[row] = placement.rgb(image if self.change is None else self.change(start + row, image))
        return out

    def sha256(self) -> str:
        """Checksum over the names and contents of all files."""
        total = hashlib.sha256()
        for path in self.paths:
            total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def _decode(self, path: Path) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return read_image(path, max_pixels=LIMITS.max_pixels, upright=False).rgb
        except (ImageError, OSError) as error:
            raise DataError("unreadable", str(error)) from error


class VideoFrames:
    """The frames of a video file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: VideoInfo = probe(path, LIMITS)
        self.height, self.width = self.info.height, self.info.width
        self.time_s = np.array([frame.time_s for frame in read_frames(path, self.info, LIMITS)], np.float64)
        self.index = np.arange(len(self.time_s), dtype=np.int64)
        self.count = len(self.time_s)

    def pick(self, index: Int64[np.ndarray, " f"]) -> None:
        """Keep only these frames, in increasing order; DataError for frames that the video does not have."""
        if len(index) == 0 or index[0] < 0 or index[-1] >= len(self.index) or (np.diff(index) <= 0).any():
            raise DataError("frame-count", f"{self.path.name} has {self.count} frames; frames {index} are not in it")
        self.index, self.time_s, self.count = self.index[index], self.time_s[index], len(index)

    def read(self, start: int, count: int, placement: ResizeCrop) -> UInt8[np.ndarray, "f h w 3"]:
        """Decoded from the beginning of the file: what counts frames exactly in any container."""
        index = self.index[start : start + count]
        return read_clip(self.path, self.info, LIMITS, placement, frame_index=index, start_pts=None)[0]

    def sha256(self) -> str:
        """Checksum of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(frames: Frames, cameras: Trajectory, what: str) -> None:
    """Raise DataError unless there is one camera per image, made for images of this size."""
    if (frames.width, frames.height) != (cameras.width, cameras.height):
        factor = (cameras.width / frames.width + cameras.height / frames.height) / 2
        raise DataError(
            "size",
            f"{what}: the images are {frames.width}x{frames.height}, the cameras are for "
            f"{cameras.width}x{cameras.height} ({factor:.3g} times); give the images that the cameras were made for",
        )
    if frames.count != len(cameras):
        raise DataError("frame-count", f"{what}: {frames.count} frames and {len(cameras)} cameras; they must pair up")
    if (problem := foreign_size(cameras.K, cameras.width, cameras.height)) is not None:
        raise DataError("intrinsics", f"{what}: {problem}; scale K to the size of the images")


def read_depth_file(path: Path, unit: float) -> Float32[np.ndarray, "h w"]:
    """A .npy or 16-bit image of depth times `unit`; not finite or negative becomes 0. DataError if it is neither."""
    import cv2

    if path.suffix == ".npy":
        try:
            depth = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError("depth", f"{path} does not read: {error}") from error
    else:
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if depth is None or depth.dtype == np.uint8:
            raise DataError("depth", f"{path} is not a 16-bit or float image of depth")
    depth = np.squeeze(depth)
    if depth.ndim != 2:
        raise DataError("depth", f"{path} has shape {depth.shape}, expected one number per pixel")
    scaled = depth.astype(np.float64) * unit
    return np.where(np.isfinite(scaled) & (scaled > 0), scaled, 0).astype(np.float32)
