"""Black bars around a video (letterbox, pillarbox), found on thumbnails as they pass by.

Axis legend: h height, w width, 3 = blue, green, red.
"""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

_BLACK = 24.0
"""Luma up to which rows and columns are black."""
_LEAST, _MOST = 0.02, 0.3
"""Size of one bar as a fraction of the side."""
_UNEVEN = 0.25
"""Largest relative difference of opposite bars."""


class BarFinder:
    """Brightest row and column values over all frames. Memory: one row and one column."""

    def __init__(self) -> None:
        self._rows: np.ndarray | None = None
        self._columns: np.ndarray | None = None

    def add(self, thumbnail_bgr: UInt8[np.ndarray, "h w 3"]) -> None:
        """Take the next frame."""
        gray = cv2.cvtColor(thumbnail_bgr, cv2.COLOR_BGR2GRAY)
        rows, columns = gray.max(axis=1), gray.max(axis=0)
        self._rows = rows if self._rows is None else np.maximum(self._rows, rows)
        self._columns = columns if self._columns is None else np.maximum(self._columns, columns)

    def bars(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns to cut off images of this size: top, bottom, left, right; even numbers, 0 without bars."""
        if self._rows is None or self._columns is None:
            return (0, 0, 0, 0)
        return (*_both_ends(self._rows, height), *_both_ends(self._columns, width))


def _both_ends(brightest: UInt8[np.ndarray, " n"], side: int) -> tuple[int, int]:
    """Bars at both ends of one axis: only of about the same size, as a dark floor or sky is at one end."""
    lit = np.flatnonzero(brightest > _BLACK)
    count = len(brightest)
    if not len(lit):
        return 0, 0
    ends = int(lit[0]), count - 1 - int(lit[-1])
    low, high = sorted(ends)
    if low < max(1, _LEAST * count) or high > _MOST * count or high - low > max(1, _UNEVEN * high):
        return 0, 0
    scale = side / count
    first, last = (math.ceil((end + 1) * scale / 2) * 2 for end in ends)  # the row at the edge may be half black
    return first, last
