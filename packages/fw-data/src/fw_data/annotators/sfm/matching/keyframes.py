"""Image motion from frame to frame by sparse optical flow, and the choice of key frames.

Axis legend: f frames, h height, w width, n points. Image positions are (x, y) with pixel centers at + 0.5.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

FLOW_WINDOW = (15, 15)
FLOW_LEVELS = 4
MAX_ROUND_TRIP_PX = 0.7


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Flow statistics of a clip."""

    step_px: Float64[np.ndarray, " g"]
    """Median displacement from each frame to the next (g = f - 1); the long side where the flow was lost."""
    survival: Float64[np.ndarray, " g"]
    """Part of the points that the flow carried to the next frame and back."""
    corners: Float64[np.ndarray, " f"]
    """Corner points found in each frame."""
    span_px: float
    """Largest median displacement seen between frames that still share points."""


def measure_motion(gray: UInt8[np.ndarray, "f h w"], max_corners: int = 400) -> Motion:
    """Flow statistics of a clip."""
    frames = len(gray)
    long_side = float(max(gray.shape[1:]))
    steps, survivals, corners = [], [], []
    span = 0.0
    anchor: tuple[np.ndarray, np.ndarray] | None = None
    for index in range(frames):
        start = find_corners(gray[index], max_corners)
        corners.append(float(len(start)))
        if index + 1 == frames:
            break
        end, good = track_points(gray[index], gray[index + 1], start)
        survivals.append(float(good.mean()) if len(start) else 0.0)
        moved = np.linalg.norm(end - start, axis=1)[good]
        steps.append(float(np.median(moved)) if good.sum() >= 10 else long_side)
        anchor, seen = _extend_anchor(anchor, gray, index, start, max_corners)
        span = max(span, seen)
    return Motion(
        step_px=np.array(steps, np.float64),
        survival=np.array(survivals, np.float64),
        corners=np.array(corners, np.float64),
        span_px=span,
    )


def select_keyframes(motion: Motion, diagonal_px: float, max_keyframes: int) -> list[int]:
    """Frames spread evenly over the path that the image travels; always the first and the last one.

    A step that the flow could not follow makes both its frames key frames.
    """
    frames = len(motion.step_px) + 1
    steps = np.minimum(motion.step_px, 0.06 * diagonal_px)
    traveled = np.concatenate([[0.0], np.cumsum(steps)])
    stride = max(traveled[-1] / max(max_keyframes - 1, 1), min(0.03 * diagonal_px, traveled[-1] / 8), 1e-6)
    chosen = {0, frames - 1}
    for mark in np.arange(stride, traveled[-1], stride):
        chosen.add(int(np.argmin(np.abs(traveled - mark))))
    for index in np.flatnonzero(motion.survival < 0.4):
        chosen |= {int(index), int(index) + 1}
    return sorted(chosen)


def find_corners(gray: UInt8[np.ndarray, "h w"], max_corners: int) -> Float32[np.ndarray, "n 2"]:
    """Corner points of one frame, strongest first."""
    distance = max(4.0, 0.012 * max(gray.shape))
    found = cv2.goodFeaturesToTrack(gray, max_corners, 0.003, distance, blockSize=5)
    if found is None:
        return np.zeros((0, 2), np.float32)
    return found.reshape(-1, 2).astype(np.float32) + np.float32(0.5)


def track_points(
    first: UInt8[np.ndarray, "h w"],
    second: UInt8[np.ndarray, "h w"],
    points: Float32[np.ndarray, "n 2"],
    guess: Float32[np.ndarray, "n 2"] | None = None,
) -> tuple[Float32[np.ndarray, "n 2"], np.ndarray]:
    """Positions in the second frame, and which of them flow back to where they came from."""
    if not len(points):
        return points.copy(), np.zeros(0, bool)
    options = {"winSize": FLOW_WINDOW, "maxLevel": FLOW_LEVELS}
    start = np.ascontiguousarray(points - 0.5)[:, None]
    if guess is None:
        end, ok, _ = cv2.calcOpticalFlowPyrLK(first, second, start, None, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]
    else:
        end, ok, _ = cv2.calcOpticalFlowPyrLK(
            first,
            second,
            start,
            np.ascontiguousarray(guess - 0.5)[:, None],
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            **options,
        )
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(
        second, first, end, start.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **options
    )
    round_trip = np.linalg.norm((back - start).reshape(-1, 2), axis=1)
    end = end.reshape(-1, 2)
    height, width = first.shape
    inside = (end > 0).all(axis=1) & (end[:, 0] < width - 1) & (end[:, 1] < height - 1)
    good = (ok.ravel() > 0) & (ok_back.ravel() > 0) & (round_trip < MAX_ROUND_TRIP_PX) & inside
    return (end + np.float32(0.5)).astype(np.float32), good


def _extend_anchor(
    anchor: tuple[np.ndarray, np.ndarray] | None,
    gray: np.ndarray,
    index: int,
    corners: np.ndarray,
    max_corners: int,
) -> tuple[tuple[np.ndarray, np.ndarray] | None, float]:
    """Follow one set of points through the clip, so that slow drift adds up but jitter does not."""
    if anchor is None or len(anchor[0]) < 0.3 * max_corners:
        anchor = (corners, corners)
    origin, position = anchor
    moved, good = track_points(gray[index], gray[index + 1], position)
    origin, moved = origin[good], moved[good]
    if len(origin) < 10:
        return None, 0.0
    return (origin, moved), float(np.median(np.linalg.norm(moved - origin, axis=1)))
