"""Color conversion between the YUV of video files and RGB arrays, without the rounding bias of the fast defaults.

A converter keeps its scaler from one image to the next of the same kind: setting one up costs more than a small
image does. Axis legend: h height, w width, 3 = RGB.
"""

import av
import numpy as np
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter
from jaxtyping import UInt8

from fw_data.media.tone_mapping import Transfer, to_sdr

_PRECISE = Interpolation(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
_UNSPECIFIED = 2
_HD = (1280, 577)
"""Width and height from which untagged video is BT.709, as in players."""
_TRANSFERS: dict[int, Transfer] = {ColorTrc.ARIB_STD_B67: "hlg", ColorTrc.SMPTE2084: "pq"}


def hdr_transfer(image: av.VideoFrame) -> Transfer | None:
    """Transfer function of a high dynamic range image; None for SDR."""
    return _TRANSFERS.get(int(image.color_trc))


class ColorConverter:
    """Converts the images of one video, one after another; not for use by several threads."""

    def __init__(self) -> None:
        self._scaler = VideoReformatter()

    def to_rgb(self, image: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """SDR RGB of a decoded image, by its color matrix, range and transfer function.

        Untagged images are BT.709 from 1280 columns or 577 rows on, BT.601 below. HLG and PQ are tone-mapped.
        """
        untagged = int(image.colorspace) == _UNSPECIFIED
        is_hd = image.width >= _HD[0] or image.height >= _HD[1]
        matrix = Colorspace.ITU709 if untagged and is_hd else None
        transfer = hdr_transfer(image)
        format_name = "rgb24" if transfer is None else "rgb48le"
        rgb = self._scaler.reformat(
            image, format=format_name, src_colorspace=matrix, interpolation=_PRECISE, threads=1
        ).to_ndarray()
        return rgb if transfer is None else to_sdr(rgb, transfer)

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
