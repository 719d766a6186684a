"""Photometric consistency of a video by optical flow: how well flow to the next frame and back returns to its start.

Where a texture flickers or melts, forward and backward flow disagree. This is the idea of WorldScore's photometric
consistency (Duan et al. 2025, section 4), with the flow of OpenCV's DIS instead of a network, so values differ from the
benchmark's. Axis legend: F frames, H W pixels.
"""

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import UInt8


def flow_error(video: UInt8[np.ndarray, "F H W 3"]) -> float:
    """Mean distance between each pixel and its return from the next frame, in shares of the image diagonal.

    Pixels that leave the frame are not compared; if all do, the error is 1.

    Raises:
        ValueError: fewer than two frames.
    """
    if len(video) < 2:
        raise ValueError("flow_error: one frame has no motion; give two or more")
    height, width = video.shape[1:3]
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total, count = 0.0, 0
    for here, there in pairwise(gray):
        forward = np.asarray(dis.calc(here, there, np.zeros((height, width, 2), np.float32)), np.float32)
        backward = np.asarray(dis.calc(there, here, np.zeros((height, width, 2), np.float32)), np.float32)
        at_x, at_y = x + forward[..., 0], y + forward[..., 1]
        inside = (at_x >= 0) & (at_x <= width - 1) & (at_y >= 0) & (at_y <= height - 1)
        back = cv2.remap(backward, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total += float(np.linalg.norm(forward + back, axis=-1)[inside].sum(dtype=np.float64))
        count += int(inside.sum())
    return total / count / float(np.hypot(height, width)) if count else 1.0
