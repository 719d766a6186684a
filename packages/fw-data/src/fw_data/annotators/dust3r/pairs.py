"""Which pairs of frames are looked at: graphs over the frames of a clip. Video has two ends, so none wraps around."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Graph = Literal["swin", "logwin", "oneref", "complete"]


def pair_graph(frames: int, graph: Graph, reach: int = 5) -> list[tuple[int, int]]:
    """Pairs (first, second) of a clip, each in both directions.

    swin: every frame with its next `reach` frames. logwin: with those 1, 2, 4, ... 2^(reach - 1) frames away, which
    ties the ends of a clip together for the price of a window. oneref: every frame with frame `reach`. complete: all.

    Raises:
        ValueError: fewer than two frames, or a reach that names nothing.
    """
    if frames < 2:
        raise ValueError(f"a clip of {frames} frame(s) has no pairs; give at least 2 frames")
    if graph != "complete" and reach < (0 if graph == "oneref" else 1):
        raise ValueError(f"reach {reach} of graph {graph} is too small")
    if graph == "oneref":
        if reach >= frames:
            raise ValueError(f"oneref asks for frame {reach}, but the clip has {frames} frames, counted from 0")
        forward = [(min(reach, frame), max(reach, frame)) for frame in range(frames) if frame != reach]
    elif graph == "complete":
        forward = [(i, j) for i in range(frames) for j in range(i + 1, frames)]
    else:
        steps = range(1, reach + 1) if graph == "swin" else [2**power for power in range(reach)]
        forward = [(i, i + step) for i in range(frames) for step in steps if i + step < frames]
    return [pair for i, j in forward for pair in ((i, j), (j, i))]


@dataclass(frozen=True)
class Window:
    """Frames start to stop (excluded) of a long clip."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def windows(frames: int, length: int, overlap: int) -> Iterator[Window]:
    """Windows of at most `length` frames that cover a clip, each sharing at least `overlap` frames with the next.

    They are as few as possible and as even as possible, so the last one is no stub.

    Raises:
        ValueError: an overlap that leaves no room to advance.
    """
    if not 2 <= overlap < length:
        raise ValueError(f"windows of {length} frames with {overlap} shared: need 2 <= overlap < length")
    if frames <= length:
        yield Window(0, frames)
        return
    count = -(-(frames - overlap) // (length - overlap))
    for index in range(count):
        start = round(index * (frames - length) / (count - 1))
        yield Window(start, start + length)
