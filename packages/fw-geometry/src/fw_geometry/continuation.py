"""Continued paths: a clip that begins at the last camera of another one, and a long path divided into such clips.

Consecutive clips share one frame: the last of a clip is the first of the next. `count` clips of `num_frames` frames
have ``count * (num_frames - 1) + 1`` frames together.

Axis legend: OpenCV axes, camera-to-world; f frames.
"""

from dataclasses import replace

import numpy as np

from fw_geometry.camera import Trajectory


def total_frames(num_frames: int, count: int) -> int:
    """Frames of `count` clips of `num_frames` frames that share one frame with their neighbors."""
    return count * (num_frames - 1) + 1


def frames_per_segment(total: int, count: int) -> int:
    """Frames of each clip if a path of `total` cameras is divided over `count` clips.

    Raises:
        ValueError: `count` is below 1, or `total` is not ``count * (num_frames - 1) + 1`` for any `num_frames`.
    """
    if count < 1:
        raise ValueError(f"segments is {count}; it must be at least 1")
    if (total - 1) % count or total <= count:
        raise ValueError(
            f"a path of {total} cameras does not divide into {count} segments, which share one camera with their "
            f"neighbors; use trajectory.resampled({count} * (num_frames - 1) + 1)"
        )
    return (total - 1) // count + 1


def divide(path: Trajectory, count: int) -> list[Trajectory]:
    """The `count` consecutive parts of a path, each relative to its own first camera.

    The last camera of a part is the first of the next one. Raises ValueError, see `frames_per_segment`.
    """
    step = frames_per_segment(len(path), count) - 1
    return [path.slice(k * step, (k + 1) * step + 1).relative_to_first() for k in range(count)]


def continued(before: Trajectory, motion: Trajectory | None = None) -> Trajectory:
    """The path of a clip whose first frame is the last frame of another clip.

    Args:
        before: path of the clip that is continued.
        motion: path from there on, relative to its own first camera, with its own intrinsics. By default the motion
            of `before` repeats with the intrinsics of its last camera.

    Returns:
        The path, relative to its first camera: the last one of `before`.
    """
    if motion is not None:
        return motion.relative_to_first()
    return replace(before, K=np.repeat(before.K[-1:], len(before), axis=0)).relative_to_first()
