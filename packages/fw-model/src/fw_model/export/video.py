"""RGB frames to an H.264 video file with PyAV, which carries its own encoder."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fw_core.video import x264_options


def write_video(
    path: str | Path, video: UInt8[np.ndarray, "F H W 3"], fps: float | int = 16.0, *, crf: int = 18
) -> Path:
    """Write RGB frames as H.264 in mp4, playable in browsers (yuv420p; an odd row or column at the edge is cut).

    The same frames give the same bytes.

    Args:
        path: the .mp4 file; folders are made.
        video: RGB.
        fps: frames per second.
        crf: quality, 0 (lossless in yuv) to 51; 18 looks like the source.

    Raises:
        ValueError: no frames, or frames smaller than 2 pixels.
    """
    import av

    path = Path(path)
    frames, height, width, _ = video.shape
    if frames == 0 or height < 2 or width < 2:
        raise ValueError(f"{path}: a video needs at least one frame of 2 x 2 pixels, got {video.shape}.")
    height, width = height - height % 2, width - width % 2
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=x264_options(crf))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for packet in _packets(stream, video[:, :height, :width]):
            container.mux(packet)
    return path


def _packets(stream: Any, video: np.ndarray) -> Iterator[Any]:
    import av

    for pixels in video:
        yield from stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"))
    yield from stream.encode()
