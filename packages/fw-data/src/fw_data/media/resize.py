"""The stored size of a clip, and how source pixels, depth and intrinsics get there.

One uniform scale, then a centre crop, so nothing is stretched beyond the rounding to whole pixels; K follows exactly.
Pixel (i, j) has its centre at (i + 0.5, j + 0.5). Axis legend: h height, w width, f frames.
"""

import re
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fw_geometry.camera import Trajectory

MULTIPLE = 16
"""Stored sides are multiples of this: what the video models downstream need."""
AUTO_LONG_SIDE = 640


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Resize to (resized_height, resized_width), then cut (height, width) out of it at (top, left)."""

    resized_height: int
    resized_width: int
    top: int
    left: int
    height: int
    width: int

    def rgb(self, frame: UInt8[np.ndarray, "h0 w0 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """An RGB frame of any resolution at the stored size: area average downwards, cubic upwards."""
        height, width = frame.shape[:2]
        if (height, width) != (self.resized_height, self.resized_width):
            shrinks = self.resized_height <= height and self.resized_width <= width
            frame = cv2.resize(
                np.ascontiguousarray(frame),
                (self.resized_width, self.resized_height),
                interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
            )
        return self._crop(frame)

    def depth(self, depth_m: Float32[np.ndarray, "h0 w0"]) -> Float32[np.ndarray, "h w"]:
        """A depth map at the stored size: nearest pixel centre, so that no depth is invented across an edge."""
        if depth_m.shape != (self.resized_height, self.resized_width):
            size = (self.resized_width, self.resized_height)
            depth_m = cv2.resize(depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT)
        return self._crop(depth_m)

    def trajectory(self, trajectory: Trajectory) -> Trajectory:
        """Cameras of the source as cameras of the stored frames."""
        resized = trajectory.resized(self.resized_width, self.resized_height)
        return resized.cropped(self.left, self.top, self.width, self.height)

    def _crop(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(image[self.top : self.top + self.height, self.left : self.left + self.width])


def parse_size(size: str) -> str | tuple[int, int]:
    """Check a size option: "auto", "source", or "HxW" as (height, width); raises ValueError for anything else."""
    if size in ("auto", "source"):
        return size
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if not found:
        raise ValueError(f"--size {size}: give auto, source, or HEIGHTxWIDTH such as 336x592")
    height, width = int(found[1]), int(found[2])
    if height % MULTIPLE or width % MULTIPLE or not height or not width:
        down = [max(MULTIPLE, side // MULTIPLE * MULTIPLE) for side in (height, width)]
        raise ValueError(f"--size {size}: both sides must be multiples of {MULTIPLE}; try {down[0]}x{down[1]}")
    return height, width


def place(source_height: int, source_width: int, size: str) -> Placement:
    """The stored size of a source, by a size option.

    auto: the source's aspect, long side <= 640, both sides cut to multiples of 16; source: only the cut;
    HxW: exactly that size, filled and cropped.
    """
    wanted = parse_size(size)
    if isinstance(wanted, tuple):
        height, width = wanted
    else:
        limit = AUTO_LONG_SIDE if wanted == "auto" else max(source_height, source_width)
        shrink = min(1.0, limit / max(source_height, source_width))
        height = max(MULTIPLE, int(round(source_height * shrink, 6)) // MULTIPLE * MULTIPLE)
        width = max(MULTIPLE, int(round(source_width * shrink, 6)) // MULTIPLE * MULTIPLE)
    fill = max(height / source_height, width / source_width)
    if wanted == "source":
        fill = max(fill, 1.0)
    resized_height = max(height, round(source_height * fill))
    resized_width = max(width, round(source_width * fill))
    return Placement(
        resized_height=resized_height,
        resized_width=resized_width,
        top=(resized_height - height) // 2,
        left=(resized_width - width) // 2,
        height=height,
        width=width,
    )
