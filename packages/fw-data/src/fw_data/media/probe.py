"""Properties of a video file, checked against limits before any long work.

Sizes are upright: after the rotation that phones write into the file, and with square pixels.
"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from fw_data.errors import DataError
from fw_data.media.color import hdr_transfer
from fw_data.media.numbered import IMAGE_FPS, numbered_images, read_numbered
from fw_data.media.tone_mapping import Transfer

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".asf", ".ogv", ".3gp", ".3g2", ".ts"}
    | {".mts", ".m2ts", ".vob", ".mxf", ".dv", ".flv", ".gif", ".y4m"}
)
_MATRIX_ONE = 1 << 16
"""1 in the fixed-point numbers of a display matrix."""


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """Largest source videos that are processed."""

    max_pixels: int = 8192 * 4320
    """Largest frame, in pixels."""
    min_side: int = 16
    """Smallest height or width, in pixels."""
    max_duration_s: float = 6 * 3600.0
    """Longest declared duration, in seconds."""
    max_frames: int = 1_000_000
    """Longest video, in frames; decoding stops there."""
    max_decode_errors: int = 50
    """Damaged packets after which decoding stops; the frames before are kept."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Properties of a readable video."""

    width: int
    """Upright width with square pixels."""
    height: int
    """Upright height with square pixels."""
    coded_width: int
    """Width of the decoded images."""
    coded_height: int
    """Height of the decoded images."""
    quarter_turns: int
    """Counter-clockwise quarter turns that make a decoded image upright (0 to 3)."""
    mirrored: bool = False
    """Whether decoded images are mirrored left to right before the turns, as the display matrix of the file asks."""
    transfer: Transfer | None = None
    """Transfer function of high dynamic range video, which is tone-mapped."""
    bars: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Black rows and columns that are cut off decoded images: top, bottom, left, right."""
    fps: float
    """Nominal frame rate; 25 where the file has none."""
    declared_frames: int
    """Declared number of frames; 0 = unknown."""
    codec: str
    """Name of the codec."""

    @property
    def notes(self) -> list[str]:
        """Changes to the images that a user should know of."""
        notes = ["mirrored left to right, as its display matrix asks"] if self.mirrored else []
        if any(self.bars):
            notes.append(f"black bars cut off: {self.width}x{self.height} are left")
        return notes + ([f"HDR ({self.transfer.upper()}) was tone-mapped to SDR"] if self.transfer else [])


def without_bars(info: VideoInfo, bars: tuple[int, int, int, int]) -> VideoInfo:
    """The video with its black bars cut off."""
    top, bottom, left, right = bars
    down, across = 1 - (top + bottom) / info.coded_height, 1 - (left + right) / info.coded_width
    if info.quarter_turns % 2:
        down, across = across, down
    return replace(info, bars=bars, height=round(info.height * down), width=round(info.width * across))


def find_videos(folder: Path) -> list[Path]:
    """Every video file, and every folder of numbered images, below a folder; sorted by path, without hidden ones."""
    found: list[Path] = []
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        is_file = path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
        if is_file or (path.is_dir() and numbered_images(path)):
            found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def probe(path: Path, limits: MediaLimits, *, image_fps: float = IMAGE_FPS) -> VideoInfo:
    """Open a video and decode its first frame; `image_fps` is the frame rate of folders of images.

    Raises:
        DataError: the video is unreadable or beyond the limits.
    """
    if path.is_dir():
        return _probe_images(path, limits, image_fps)
    try:
        if path.stat().st_size == 0:
            raise DataError("empty", f"{path.name} is an empty file (0 bytes)")
        with open_video(path) as container:
            stream = video_stream(container, path)
            context = stream.codec_context
            if context is None:  # FFmpeg knows the container, not what is in it
                raise DataError("no-decoder", f"{path.name} is encoded in a way that this FFmpeg cannot decode")
            _check_pixels(path, context.width, context.height, limits)
            image = next(container.decode(stream), None)
            if image is None:
                raise DataError("no-frames", f"{path.name} holds no decodable frame: it is empty or cut off")
            fps = float(stream.average_rate or stream.guessed_rate or 25)
            duration_s = 0.0
            if stream.duration is not None and stream.time_base is not None:
                duration_s = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                duration_s = container.duration / av.time_base
            aspect = stream.sample_aspect_ratio
            declared = stream.frames
            if duration_s > 0 and stream.average_rate:  # an edit list may hide frames that the file still has
                declared = min(declared, math.floor(duration_s * fps + 1e-3))
            codec = context.name
    except (av.FFmpegError, OSError) as error:
        if os.access(path, os.R_OK) and _lacks_index(path):
            raise DataError(
                "no-index", f"{path.name} has no index (moov atom): its recording or download did not finish"
            ) from error
        raise DataError("unreadable", f"{path.name} is not a video that FFmpeg can read: {error.strerror}") from error
    except IndexError as error:  # PyAV, where damage makes a stream appear on the way
        raise DataError("unreadable", f"{path.name} changes its streams on the way: it is damaged") from error
    _check_pixels(path, image.width, image.height, limits)
    if duration_s > limits.max_duration_s:
        raise DataError("too-long", f"{path.name} lasts {duration_s:.0f} s; the limit is {limits.max_duration_s:.0f} s")
    if declared > limits.max_frames:
        raise DataError("too-long", f"{path.name} has {declared} frames; the limit is {limits.max_frames}")
    width, height = image.width, image.height
    if aspect and aspect > 0 and aspect != 1:
        width = max(1, round(width * float(aspect)))
    turns, mirrored = _orientation(path, image)
    if turns % 2:
        width, height = height, width
    _check_pixels(path, width, height, limits)
    if min(width, height) < limits.min_side:
        raise DataError("too-small", f"{path.name} is {width}x{height}; both sides must be >= {limits.min_side}")
    return VideoInfo(
        width=width,
        height=height,
        coded_width=image.width,
        coded_height=image.height,
        quarter_turns=turns,
        mirrored=mirrored,
        transfer=hdr_transfer(image),
        fps=fps,
        declared_frames=declared,
        codec=codec,
    )


def open_video(path: Path) -> InputContainer:
    """The file as FFmpeg sees it; titles and tags may hold any bytes."""
    return av.open(path, "r", metadata_errors="replace")


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The first moving-image stream; cover art does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise DataError("no-video", f"{path.name} has no video stream")


def _probe_images(folder: Path, limits: MediaLimits, fps: float) -> VideoInfo:
    images = numbered_images(folder)
    if not images:
        raise DataError("no-video", f"{folder.name} is not a folder of numbered images")
    height, width = read_numbered(images[0], limits.max_pixels).shape[:2]
    if len(images) > limits.max_frames:
        raise DataError("too-long", f"{folder.name} has {len(images)} images; the limit is {limits.max_frames}")
    if min(width, height) < limits.min_side:
        raise DataError("too-small", f"{folder.name} is {width}x{height}; both sides must be >= {limits.min_side}")
    return VideoInfo(
        width=width,
        height=height,
        coded_width=width,
        coded_height=height,
        quarter_turns=0,
        fps=fps,
        declared_frames=len(images),
        codec=images[0].suffix.lower().lstrip("."),
    )


def _orientation(path: Path, image: av.VideoFrame) -> tuple[int, bool]:
    """Counter-clockwise quarter turns, and whether the image is mirrored left to right before them.

    Raises:
        DataError: a display matrix that turns by another angle.
    """
    data = image.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    # (x, y) goes to (a x + c y, b x + d y), y down; mirroring first negates the first column
    a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5] / _MATRIX_ONE
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    angle = -math.degrees(math.atan2(b, a))
    turns = round(angle / 90)
    if abs(angle - 90 * turns) > 1:
        raise DataError("rotation", f"{path.name} is to be shown turned by {angle:.0f} degrees, not by quarter turns")
    return turns % 4, bool(mirrored)


def _lacks_index(path: Path) -> bool:
    """Whether a file of the MP4 family has no complete moov box."""
    with path.open("rb") as file:
        size, position = path.stat().st_size, 0
        while position + 8 <= size:
            file.seek(position)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            length = int.from_bytes(head[8:16], "big") if length == 1 else length
            if (position == 0 and kind != b"ftyp") or (kind == b"moov" and position + length <= size):
                return False
            if length < 8:  # 0: to the end of the file
                break
            position += length
    return size >= 8


def _check_pixels(path: Path, width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.max_pixels:
        raise DataError("too-large", f"{path.name} is {width}x{height}; the limit is {limits.max_pixels} pixels")
