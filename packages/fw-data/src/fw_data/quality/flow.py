"""Optical flow between two frames, both ways: OpenCV's DIS, or GMFlow where its weights are (`--flow gmflow`).

Axis legend: h height, w width of a thumbnail; the last axis of a flow is (right, down) in pixels of it.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fw_data.annotators.gmflow.sizes import input_size
from fw_data.quality.image_scores import color_thumbnail

FlowMethod = Literal["dis", "gmflow"]
_DIS_LONG_SIDE = 480


class FlowPair(NamedTuple):
    """Flow between two frames."""

    there: Float32[np.ndarray, "h w 2"]
    """From pixels of the first frame to the second one."""
    back: Float32[np.ndarray, "h w 2"]
    """From pixels of the second frame to the first one."""


def flow_thumbnail(frame: UInt8[np.ndarray, "h2 w2 3"], method: FlowMethod) -> UInt8[np.ndarray, "h w 3"]:
    """A frame at the size at which the method finds flow."""
    if method == "dis":
        return color_thumbnail(frame, _DIS_LONG_SIDE)
    height, width = input_size(*frame.shape[:2])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


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
    there, back = (flow_of.calc(a, b, np.zeros((*a.shape, 2), np.float32)) for a, b in (gray, gray[::-1]))
    return FlowPair(there=there, back=back)
