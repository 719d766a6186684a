"""Color conversion between the YUV of video files and RGB arrays, without the rounding bias of the fast defaults.

A converter keeps its scaler from one image to the next of the same kind: setting one up costs more than a small
image does. Axis legend: h height, w width, 3 = RGB.
"""

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

_PRECISE = Interpolation(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


class ColorConverter:
    """Converts the images of one video, one after another; not for use by several threads."""

    def __init__(self) -> None:
        self._scaler = VideoReformatter()

    def to_rgb(self, image: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """RGB of a decoded image, by the color matrix and range that it carries (BT.601 when it has none)."""
        return self._scaler.reformat(image, format="rgb24", interpolation=_PRECISE, threads=1).to_ndarray()

    def to_yuv420(self, rgb: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
        """A BT.709, limited range, 4:2:0 image of an RGB image with even sides."""
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        return self._scaler.reformat(
            image, format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=_PRECISE, threads=1
        )

    def thumbnail(self, image: av.VideoFrame, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
        """A small BGR copy, by area average."""
        return self._scaler.reformat(
            image, width=width, height=height, format="bgr24", interpolation="AREA", threads=1
        ).to_ndarray()
