"""Properties of a video file, checked against limits before any long work.

Sizes are upright: after the rotation that phones write into the file, and with square pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition

from fw_data.errors import DataError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ogv", ".3gp", ".ts", ".mts", ".flv"}
)


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
    fps: float
    """Nominal frame rate; 25 where the file has none."""
    declared_frames: int
    """Declared number of frames; 0 = unknown."""
    codec: str
    """Name of the codec."""


def find_videos(folder: Path) -> list[Path]:
    """Every file with the suffix of a video below a folder, sorted by its relative path; hidden ones are left out."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def probe(path: Path, limits: MediaLimits) -> VideoInfo:
    """Open a video and decode its first frame; raises DataError when it is unreadable or beyond the limits."""
    try:
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
            codec = context.name
    except (av.FFmpegError, OSError) as error:
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
    turns = round(image.rotation / 90) % 4
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


def _check_pixels(path: Path, width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.max_pixels:
        raise DataError("too-large", f"{path.name} is {width}x{height}; the limit is {limits.max_pixels} pixels")
