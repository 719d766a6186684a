"""Progress along the requested path: the share of the path that the camera of a video covers.

The first frame is warped along the path with its true depth. Each frame k of the video is matched with the most similar
warp; a match at frame t of the path is a progress of t / k. Unlike camera estimation from pixels, this also works on
blurred frames, where rotation and sideways translation look alike.

Axes: F frames, H W pixels.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fw_geometry import Trajectory
from fw_train.metrics.warp import warp_first_frame

BLUR_SHARE = 1 / 48
"""Standard deviation of the blur before the comparison, in frame heights; it removes differences in sharpness."""
LEAST_CHANGE = 4.0
"""Paths are skipped if the first and the last warp differ by less than this on average (of 255)."""


def progress(
    video: UInt8[np.ndarray, "F H W 3"],
    first: UInt8[np.ndarray, "H W 3"],
    depth: Float[np.ndarray, "H W"],
    path: Trajectory,
) -> float | None:
    """Mean progress of the middle and the last frame: 1 = whole path, 0 = no motion, None = the path has no motion.

    Args:
        video: the frames; frame 0 is the first camera of the path.
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
