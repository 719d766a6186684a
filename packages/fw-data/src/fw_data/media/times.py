"""Time stamps of frames: gaps in them, and the repair of repeated ones.

Axis legend: n frames.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av
import numpy as np
from jaxtyping import Float64, Int64

GAP = 1.75
"""A step of this many usual steps may be a gap."""
_NEARBY = 8
"""Steps on either side that a step is compared with."""
_RARE = 0.25
"""More long steps nearby than this fraction are a regular pattern, such as pulldown, or another rate."""
_RESTART_S = 1.0
"""A stamp this far back is a clock that restarts, as in joined recordings."""
_MAX_REPEATED = 16
"""Longest run of repeated stamps that is spread up to the next stamp."""


@dataclass(kw_only=True)
class TimedImage:
    """A decoded image and its time."""

    image: av.VideoFrame
    gap: bool
    """True if data just before it is damaged or missing."""
    deinterlaced: bool = False
    """True if its fields were interlaced."""
    pts: int | None = None
    """Time stamp in ticks of the stream; None if it does not identify the frame."""
    time_s: float = 0.0
    """Presentation time, larger than that of the image before."""
    repaired: bool = False
    """True if the file repeats a time stamp here."""


def time_gaps(time_s: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " g"]:
    """Frames before which time is missing: a pause in the recording, or dropped frames."""
    steps = np.diff(time_s)
    if len(steps) < 2:
        return np.zeros(0, np.int64)
    padded = np.pad(steps, _NEARBY, constant_values=np.nan)
    nearby = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEARBY + 1)
    long = (nearby * GAP > steps[:, None]).sum(axis=1)  # the step itself included
    rare = (long == 1) | (long < _RARE * np.isfinite(nearby).sum(axis=1))
    return np.flatnonzero(rare) + 1


def with_times(images: Iterable[TimedImage], fps: float) -> Iterator[TimedImage]:
    """Fill in `pts` and `time_s`, which increases.

    Images without a stamp follow the nominal rate. A run of repeated stamps is spread evenly up to the next one; images
    wait for it. Where the clock restarts, time continues after a gap.
    """
    time_s, shift, waiting = -1 / fps, 0.0, list[TimedImage]()

    def spread(until_s: float | None) -> Iterator[TimedImage]:
        nonlocal time_s
        step = 1 / fps if until_s is None else min(1 / fps, (until_s - time_s) / (len(waiting) + 1))
        for item in waiting:
            time_s += step
            item.time_s, item.repaired = time_s, True
            yield item
        waiting.clear()

    for item in images:
        pts, base = item.image.pts, item.image.time_base
        stamp = None if pts is None or base is None else float(pts * base)
        if stamp is None:
            yield from spread(None)
            time_s += 1 / fps
            item.time_s = time_s
            yield item
            continue
        if stamp + shift < time_s - _RESTART_S:
            yield from spread(None)
            shift = time_s + 1 / fps - stamp
            item.gap = True
        if stamp + shift > time_s:
            yield from spread(stamp + shift)
            time_s = stamp + shift
            item.time_s, item.pts = time_s, None if shift else pts
            yield item
            continue
        waiting.append(item)
        if len(waiting) == _MAX_REPEATED:
            yield from spread(None)
    yield from spread(None)
