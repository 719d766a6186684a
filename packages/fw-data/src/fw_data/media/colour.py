"""Colour conversion between the YUV of video files and RGB arrays, without the rounding bias of the fast defaults.

Axis legend: h height, w width, 3 = RGB.
"""

import av
import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import UInt8

_PRECISE = Interpolation(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


def to_rgb(picture: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a decoded picture, by the colour matrix and range that the picture carries (BT.601 when it has none)."""
    return picture.reformat(format="rgb24", interpolation=_PRECISE).to_ndarray()


def to_yuv420(rgb: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
    """A BT.709, limited range, 4:2:0 picture of an RGB image with even sides."""
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation=_PRECISE)
