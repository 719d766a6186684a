"""Progress along the requested path: how far the camera of a video really went.

The first frame is warped along the path by its true depth. For a frame k of the video, the warp that resembles it most
is searched among all frames of the path; at frame t it says that the video got t / k of the way. Unlike a camera
estimated from the pixels, this also works on soft frames, where a turn and a step aside look alike to an estimator.

Axes: F frames, H W pixels.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fw_geometry import Trajectory
from fw_train.metrics.warp import warp_first_frame

BLUR_SHARE = 1 / 48
"""Standard deviation of the blur before frames are compared, in frame heights: position counts, not sharpness."""
LEAST_CHANGE = 4.0
"""Mean difference (of 255) between the first and the last warp below which a path hardly moves the image."""


def progress(
    video: UInt8[np.ndarray, "F H W 3"],
    first: UInt8[np.ndarray, "H W 3"],
    depth: Float[np.ndarray, "H W"],
    path: Trajectory,
) -> float | None:
    """Mean progress of the middle and the last frame: 1 all the way, 0 no motion, None for a path without any.

    Args:
        video: the frames to judge; frame 0 is the path's first camera.
        first: the true first frame.
        depth: its true z-depth, 0 where unknown.
        path: requested cameras, relative to the first one, in the unit of depth.
    """
    warps = [_soft(frame) for frame in warp_first_frame(first, depth, path)]
    if float(np.abs(warps[-1] - warps[0]).mean()) < LEAST_CHANGE:
        return None
    last = len(video) - 1
    reached = []
    for frame in (last // 2, last):
        seen = _soft(video[frame])
        errors = [float(np.square(seen - warp).mean()) for warp in warps]
        reached.append(int(np.argmin(errors)) / frame)
    return float(np.mean(reached))


def _soft(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    return cv2.GaussianBlur(image.astype(np.float32), (0, 0), BLUR_SHARE * image.shape[0])
