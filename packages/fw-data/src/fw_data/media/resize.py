"""The stored size of a clip, and how source pixels, depth and intrinsics get there.

One uniform scale, then a center crop, so nothing is stretched beyond the rounding to whole pixels; K follows exactly.
Pixel (i, j) has its center at (i + 0.5, j + 0.5). Axis legend: h height, w width, f frames.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fw_geometry.camera import Trajectory
from fw_geometry.clip_shape import SIDE, Cover, cover, parse_size

AUTO_LONG_SIDE = 640


@dataclass(frozen=True, kw_only=True)
class ResizeCrop:
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
        """A depth map at the stored size: nearest pixel center, so that no depth is invented across an edge."""
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


def parse_stored_size(size: str) -> str | tuple[int, int]:
    """Check a size option: "auto", "source", or WIDTHxHEIGHT as (width, height); raises ValueError for others."""
    if size in ("auto", "source"):
        return size
    if not size[:1].isdigit():
        raise ValueError(f"--size is {size!r}; use auto, source or WIDTHxHEIGHT such as 592x336")
    return parse_size(size, name="--size")


def recorded_size(size: str) -> str:
    """A size option as datasets record it in their settings: there HEIGHTxWIDTH, which clip ids depend on."""
    wanted = parse_stored_size(size)
    return wanted if isinstance(wanted, str) else f"{wanted[1]}x{wanted[0]}"


def size_of_record(recorded: str) -> str:
    """The size option that `recorded_size` recorded."""
    return "x".join(reversed(recorded.split("x")))


def place(source_height: int, source_width: int, size: str) -> ResizeCrop:
    """The stored size of a source, by a size option.

    auto: the source's aspect, long side <= 640, both sides cut to multiples of 16; source: only the cut;
    WIDTHxHEIGHT: exactly that size, filled and cropped.
    """
    wanted = parse_stored_size(size)
    if isinstance(wanted, tuple):
        width, height = wanted
    else:
        limit = AUTO_LONG_SIDE if wanted == "auto" else max(source_height, source_width)
        shrink = min(1.0, limit / max(source_height, source_width))
        height = max(SIDE, int(round(source_height * shrink, 6)) // SIDE * SIDE)
        width = max(SIDE, int(round(source_width * shrink, 6)) // SIDE * SIDE)
    if wanted == "source" and min(source_height - height, source_width - width) >= 0:
        covering = Cover(source_width, source_height, (source_width - width) // 2, (source_height - height) // 2)
    else:
        covering = cover(source_width, source_height, width, height)
    return ResizeCrop(
        resized_height=covering.height,
        resized_width=covering.width,
        top=covering.top,
        left=covering.left,
        height=height,
        width=width,
    )
