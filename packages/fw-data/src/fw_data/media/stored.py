"""The video of a stored clip: H.264 in MP4 with a key frame every few frames, so any window decodes fast.

Axis legend: f frames, h height, w width, 3 = RGB.
"""

import io
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from fw_core.video import x264_options
from fw_data.errors import DataError
from fw_data.media.color import ColorConverter

GROUP = 8
"""Frames from one key frame to the next."""


def encode_video(frames: UInt8[np.ndarray, "f h w 3"], fps: float, crf: int) -> bytes:
    """Encode RGB frames (even height and width) as BT.709 yuv420p; the same input gives the same bytes."""
    _, height, width, _ = frames.shape
    rate = max(Fraction(1, 1001), Fraction(fps).limit_denominator(1001))
    sink, convert = io.BytesIO(), ColorConverter()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264",
            rate=rate,
            options=x264_options(crf, f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:open-gop=0"),
        )
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = 1 / rate
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
        for index, frame in enumerate(frames):
            image = convert.to_yuv420(frame)
            image.pts, image.time_base = index, 1 / rate
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return sink.getvalue()


def decode_video(data: bytes, num_frames: int, frames: range | None = None) -> UInt8[np.ndarray, "f h w 3"]:
    """Decode a stored clip of `num_frames` frames, or only some of its frames (an increasing range)."""
    wanted = range(num_frames) if frames is None else frames
    images: list[np.ndarray] = []
    convert = ColorConverter()
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            if stream.average_rate is None or stream.time_base is None:
                raise DataError("clip-video", "stored video has no frame rate: the clip is damaged")
            step = 1 / (stream.average_rate * stream.time_base)
            if len(wanted) and wanted[0] >= GROUP:
                container.seek(round(wanted[0] * step), stream=stream, backward=True)
            for image in container.decode(stream):
                index = round((image.pts or 0) / step)
                if index in wanted:
                    images.append(convert.to_rgb(image))
                if len(images) == len(wanted):
                    break
    except av.FFmpegError as error:
        raise DataError("clip-video", f"stored video does not decode: {error}") from error
    if len(images) != len(wanted):
        raise DataError("clip-video", f"stored video gives {len(images)} of the frames {wanted}: the clip is damaged")
    return np.stack(images) if images else np.zeros((0, 0, 0, 3), np.uint8)
