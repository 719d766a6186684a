"""Frames of a source video, one at a time, so that memory does not depend on the length of the video.

Damage does not end the video: the frame after damaged packets is marked as a gap, and callers cut there.
Axis legend: f frames, h height, w width, 3 = RGB.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import Int64, UInt8

from fw_data.errors import DataError
from fw_data.media.color import ColorConverter
from fw_data.media.probe import MediaLimits, VideoInfo, open_video, video_stream
from fw_data.media.resize import ResizeCrop

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


def read_frames(
    path: Path, info: VideoInfo, limits: MediaLimits, *, from_pts: int | None = None
) -> Generator[SourceFrame, None, None]:
    """Decode a video from the start, or from the key frame at or before a time stamp (then `index` counts from it).

    Stops quietly at the end of what can be decoded: the caller compares with `info.declared_frames`.
    """
    index, errors, gap = 0, 0, False
    last_pts, time_s = None, -1 / info.fps
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
                pts = image.pts
                if pts is not None and last_pts is not None and pts <= last_pts:
                    pts = None
                last_pts = pts if pts is not None else last_pts
                if pts is not None and image.time_base is not None:
                    time_s = float(pts * image.time_base)
                else:
                    time_s += 1 / info.fps
                yield SourceFrame(index=index, pts=pts, time_s=time_s, gap=gap, image=image)
                index, gap = index + 1, False
                if index >= limits.max_frames:
                    return


def upright(image: av.VideoFrame, info: VideoInfo, convert: ColorConverter) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an image with the file's rotation applied (pixels may still be oblong; `ResizeCrop.rgb` squares them)."""
    return np.rot90(convert.to_rgb(image), info.quarter_turns)


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
    seekable = start_pts is not None and start_frame > 0
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
