"""Writes the video of a clip.

Axis legend: f frames, h rows, w columns, 3 = RGB.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fw_core.files import replacing
from fw_core.video import x264_options


def write_video(path: Path, video: UInt8[np.ndarray, "f h w 3"], fps: float) -> None:
    """H.264 at near-lossless quality, yuv420p, BT.601, a key frame every 8; the file appears only when it is whole."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    with replacing(path) as partial, av.open(str(partial), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options=x264_options(crf=10)
        )
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 8
        for image in video:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
