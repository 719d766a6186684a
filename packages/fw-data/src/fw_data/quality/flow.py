"""Optical flow between two frames, both ways: OpenCV's DIS, or GMFlow where its weights are (`--flow gmflow`).

Axis legend: h height, w width of a thumbnail; the last axis of a flow is (right, down) in pixels of it.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fw_data.quality.image_scores import color_thumbnail

FlowMethod = Literal["dis", "gmflow"]
_LONG_SIDE: dict[FlowMethod, int] = {"dis": 480, "gmflow": 256}
_UNIT = 8
"""Sides of the images that go into GMFlow are multiples of this."""


class FlowPair(NamedTuple):
    """Flow between two frames."""

    there: Float32[np.ndarray, "h w 2"]
    """From pixels of the first frame to the second one."""
    back: Float32[np.ndarray, "h w 2"]
    """From pixels of the second frame to the first one."""


def flow_thumbnail(frame: UInt8[np.ndarray, "h2 w2 3"], method: FlowMethod) -> UInt8[np.ndarray, "h w 3"]:
    """A frame at the size at which the method finds flow."""
    small = color_thumbnail(frame, _LONG_SIDE[method])
    if method == "dis":
        return small
    size = [max(4 * _UNIT, round(side / _UNIT) * _UNIT) for side in small.shape[1::-1]]
    return cv2.resize(small, size, interpolation=cv2.INTER_AREA)


def flow_between(first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"], method: FlowMethod) -> FlowPair:
    """Flow between two thumbnails (sRGB).

    Raises:
        WheelFileMissing: the weights of GMFlow are not in the cache.
    """
    if method == "gmflow":
        import torch

        from fw_data.annotators.gmflow.weights import load_gmflow

        images = torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            flow = load_gmflow()(images, images.flip(0)).permute(0, 2, 3, 1).numpy()
        return FlowPair(there=flow[0], back=flow[1])
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    start = np.zeros((*gray[0].shape, 2), np.float32)
    return FlowPair(
        there=flow_of.calc(gray[0], gray[1], start.copy()), back=flow_of.calc(gray[1], gray[0], start.copy())
    )
