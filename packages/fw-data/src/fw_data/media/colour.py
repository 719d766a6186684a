"""Colour conversion between the YUV of video files and RGB arrays, without the rounding bias of the fast defaults.

A converter keeps its scaler from one picture to the next of the same kind: setting one up costs more than a small
picture does. Axis legend: h height, w width, 3 = RGB.
"""

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

_PRECISE = Interpolation(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


class ColourConverter:
    """Converts the pictures of one video, one after another; not for use by several threads."""

    def __init__(self) -> None:
        self._scaler = VideoReformatter()

    def to_rgb(self, picture: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """RGB of a decoded picture, by the colour matrix and range that it carries (BT.601 when it has none)."""
        return self._scaler.reformat(picture, format="rgb24", interpolation=_PRECISE, threads=1).to_ndarray()

    def to_yuv420(self, rgb: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
        """A BT.709, limited range, 4:2:0 picture of an RGB image with even sides."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        return self._scaler.reformat(
            picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=_PRECISE, threads=1
        )

    def thumbnail(self, picture: av.VideoFrame, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
        """A small BGR copy, by area average."""
        return self._scaler.reformat(
            picture, width=width, height=height, format="bgr24", interpolation="AREA", threads=1
        ).to_ndarray()
