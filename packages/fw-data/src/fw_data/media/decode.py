"""Frames of a source video, one at a time, so that memory does not depend on the length of the video.

Damage does not end the video: the frame after damaged packets is marked as a gap, and callers cut there.
Axis legend: f frames, h height, w width, 3 = RGB.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Int64, UInt8

from fw_data.errors import DataError
from fw_data.media.color import ColorConverter
from fw_data.media.deinterlace import deinterlaced
from fw_data.media.numbered import file_numbers, numbered_images, read_numbered
from fw_data.media.probe import MediaLimits, VideoInfo, open_video, video_stream
from fw_data.media.resize import ResizeCrop
from fw_data.media.times import TimedImage, with_times

_THREADED_PIXELS = 640 * 360


@dataclass(frozen=True, kw_only=True)
class SourceFrame:
    """One decoded image and its place."""

    index: int
    """Count of decoded frames before it."""
    pts: int | None
    """Time stamp in the stream's own ticks, which finds the frame again."""
    time_s: float
    """Presentation time; from the nominal frame rate where the file has no time stamps."""
    gap: bool
    """True if data just before it is damaged or missing."""
    image: av.VideoFrame
    """As decoded: neither upright nor of square pixels."""
    repaired: bool = False
    """True if the file repeats a time stamp here; the time is interpolated."""
    deinterlaced: bool = False
    """True if the image was interlaced."""


def read_frames(
    path: Path, info: VideoInfo, limits: MediaLimits, *, from_pts: int | None = None
) -> Generator[SourceFrame, None, None]:
    """Decode a video from the start, or from the key frame at or before a time stamp (then `index` counts from it).

    Stops at the end of the decodable part: the caller compares with `info.declared_frames`.
    """
    images = _read_images(path, info, limits) if path.is_dir() else _decode(path, info, limits, from_pts)
    for index, item in enumerate(with_times(deinterlaced(images), info.fps)):
        yield SourceFrame(
            index=index,
            pts=item.pts,
            time_s=item.time_s,
            gap=item.gap,
            image=item.image,
            repaired=item.repaired,
            deinterlaced=item.deinterlaced,
        )
        if index + 1 >= limits.max_frames:
            return


def _decode(path: Path, info: VideoInfo, limits: MediaLimits, from_pts: int | None) -> Iterator[TimedImage]:
    errors, gap = 0, False
    with open_video(path) as container:
        stream = video_stream(container, path)
        threads = 2 if info.coded_width * info.coded_height > _THREADED_PIXELS else 1
        stream.codec_context.thread_count = threads
        if from_pts is not None:
            container.seek(from_pts, stream=stream, backward=True)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if packet.size == 0 and packet.pts is not None:
                    continue  # "the last image again", as Theora writes it; decoding it would end the stream
                images = packet.decode()
            except (av.FFmpegError, IndexError):  # IndexError: PyAV, where damage makes a stream appear on the way
                errors += 1
                gap = True
                if errors > limits.max_decode_errors:
                    return
                continue
            for image in images:
                if (image.width, image.height) != (info.coded_width, info.coded_height):
                    return
                if image.is_corrupt:
                    gap = True
                    continue
                yield TimedImage(image=image, gap=gap)
                gap = False


def _read_images(folder: Path, info: VideoInfo, limits: MediaLimits) -> Iterator[TimedImage]:
    """The images of a folder; missing numbers leave gaps in time."""
    images = numbered_images(folder)
    rate = Fraction(info.fps).limit_denominator(1001)
    for path, number in zip(images, file_numbers(images), strict=True):
        rgb = read_numbered(path, limits.max_pixels)
        if rgb.shape[:2] != (info.height, info.width):
            size = f"{rgb.shape[1]}x{rgb.shape[0]}"
            raise DataError("size", f"{path.name} is {size}, the first image is {info.width}x{info.height}")
        image = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        image.pts, image.time_base = number, 1 / rate
        yield TimedImage(image=image, gap=False)


def upright(image: av.VideoFrame, info: VideoInfo, convert: ColorConverter) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an image without black bars, mirrored and turned; `ResizeCrop.rgb` squares oblong pixels."""
    rgb = convert.to_rgb(image)
    top, bottom, left, right = info.bars
    rgb = rgb[top : rgb.shape[0] - bottom, left : rgb.shape[1] - right]
    return np.rot90(rgb[:, ::-1] if info.mirrored else rgb, info.quarter_turns)


def thumbnail(
    image: av.VideoFrame, info: VideoInfo, convert: ColorConverter, long_side: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A small BGR copy of an image, not rotated, for detectors that want many frames fast."""
    scale = min(1.0, long_side / max(info.coded_width, info.coded_height))
    width, height = (max(2, round(side * scale)) for side in (info.coded_width, info.coded_height))
    return convert.thumbnail(image, width, height)


def read_clip(
    path: Path,
    info: VideoInfo,
    limits: MediaLimits,
    placement: ResizeCrop,
    *,
    frame_index: Int64[np.ndarray, " f"],
    start_pts: int | None,
) -> tuple[UInt8[np.ndarray, "f h w 3"], list[float]]:
    """The frames of one clip at their stored size, and their times; raises DataError if the file now gives others.

    `frame_index` counts among the decoded frames of the source and increases; `start_pts` is that of the first one.
    """
    start_frame, num_frames = int(frame_index[0]), len(frame_index)
    wanted = set((frame_index - start_frame).tolist())
    convert = ColorConverter()
    seekable = start_pts is not None and start_frame > 0 and path.is_file()
    for from_pts in (start_pts, None) if seekable else (None,):
        frames = np.empty((num_frames, placement.height, placement.width, 3), np.uint8)
        times: list[float] = []
        passed_by = -1
        with closing(read_frames(path, info, limits, from_pts=from_pts)) as source:
            for frame in source:
                if passed_by < 0:
                    passed = from_pts is not None and frame.pts is not None and frame.pts > from_pts
                    if passed:
                        break  # the container seeks too far: count from the beginning instead
                    reached = frame.pts == from_pts if from_pts is not None else frame.index == start_frame
                    if not reached:
                        continue
                passed_by += 1
                if passed_by not in wanted:
                    continue
                frames[len(times)] = placement.rgb(upright(frame.image, info, convert))
                times.append(frame.time_s)
                if len(times) == num_frames:
                    return frames, times
    raise DataError(
        "changed",
        f"{path.name} no longer gives {num_frames} frames from frame {start_frame}: it changed while it was read",
    )
