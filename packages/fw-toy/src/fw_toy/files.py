"""Writes the video of a clip.

Axis legend: f frames, h rows, w columns, 3 = RGB.
"""

from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fw_core.files import replacing


def write_video(path: Path, video: UInt8[np.ndarray, "f h w 3"], fps: float) -> None:
    """H.264 at near-lossless quality, yuv420p, BT.601, a key frame every 8; the file appears only when it is whole."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    with replacing(path) as partial, av.open(str(partial), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 8
        stream.options = {"crf": "10", "preset": "medium", "threads": "1"}
        if has_avx512():
            stream.options |= {"x264-params": "asm=avx2"}
        for image in video:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@cache
def has_avx512() -> bool:
    """Whether x264 would use AVX-512, whose code gives different bytes from call to call (see fw_data.media.stored)."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return " avx512bw" in processor
