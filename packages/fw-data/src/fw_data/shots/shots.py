"""Cuts of a video: hard cuts, fades, black stretches and gaps; then the kept frames of each shot, in windows of at
most N frames.

Frame spans are half open, [start, end).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from fw_data.shots.cuts import CutDetector, CutMethod, make_detector
from fw_data.shots.transitions import Transition, TransitionFinder

THUMBNAIL_LONG_SIDE = 256
"""Image size for the shot detector, the same as PySceneDetect's own."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One clip to be, or a stretch too short for one."""

    start: int
    """First frame."""
    end: int
    """One past the last frame."""

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(kw_only=True)
class ShotCutter:
    """Takes thumbnails one by one and remembers where shots begin. Memory: a few bytes per frame."""

    fps: float
    """Nominal frame rate."""
    min_frames: int
    """Cuts closer together than this are one cut."""
    trim_s: float = 0.0
    """Taken off each end of a shot where a cut, a fade, black or damage was found, not at the ends of the video."""
    cuts: CutMethod = "adaptive"
    """Detector of hard cuts."""
    starts: list[int] = field(default_factory=lambda: [0])
    """First frame of each shot so far."""
    frames: int = 0
    """Frames seen so far."""

    def __post_init__(self) -> None:
        self._detector = self._new_detector()
        self._transitions = TransitionFinder(fps=self.fps)
        self._splits: set[int] = set()

    def add(self, thumbnail_bgr: UInt8[np.ndarray, "h w 3"], *, gap: bool = False) -> None:
        """Take the next frame; `gap` is true if frames are missing before it."""
        if gap and self.frames:
            self._start_at(*self._detector.finish(), self.frames)
            self._detector = self._new_detector()
        self._start_at(*self._detector.add(thumbnail_bgr))
        self._transitions.add(thumbnail_bgr, gap=gap)
        self.frames += 1

    def split_at(self, frames: Iterable[int]) -> None:
        """Shots also begin at these frames, after the last frame was added; nothing is trimmed there."""
        self._splits |= {frame for frame in frames if 0 < frame < self.frames}

    def _new_detector(self) -> CutDetector:
        return make_detector(self.cuts, first=self.frames, fps=self.fps, min_frames=self.min_frames)

    def _start_at(self, *frames: int) -> None:
        self.starts += [frame for frame in frames if self.starts[-1] < frame]

    def transitions(self) -> list[Transition]:
        """Fades, dissolves and black stretches among the frames seen so far."""
        return self._transitions.transitions()

    def shots(self) -> list[Window]:
        """The trimmed shots between transitions and cuts; call it after the last frame."""
        self._start_at(*self._detector.finish())
        shots: list[Window] = []
        for start, end in self._between():
            trim = round(self.trim_s * self.fps)
            first = start + (0 if start in {0, *self._splits} else trim)
            last = end - (0 if end in {self.frames, *self._splits} else trim)
            if last <= first:  # nothing is left of it, but it is to be accounted for
                first = (start + end) // 2
                last = first + 1
            shots.append(Window(start=first, end=last))
        return shots

    def _between(self) -> Iterator[tuple[int, int]]:
        borders = [(t.start, t.end) for t in self.transitions()]
        within = [
            cut for cut in sorted({*self.starts, *self._splits}) if not any(start < cut < end for start, end in borders)
        ]
        borders = sorted([*borders, *((cut, cut) for cut in within if cut > 0), (self.frames, self.frames)])
        start = 0
        for end, resume in borders:
            if end > start:
                yield start, end
            start = max(start, resume)


def choose_frames(times_s: Float64[np.ndarray, " n"], fps: float | int | None) -> Int64[np.ndarray, " m"]:
    """Which frames of a shot are kept, as indices: all of them (None), or those nearest to a steady beat.

    The beat starts at the first frame; no frame is taken twice, so a rate above that of the video keeps every frame.
    """
    if fps is None or len(times_s) < 2:
        return np.arange(len(times_s))
    beats = np.arange(times_s[0], times_s[-1] + 1e-6, 1 / fps)
    after = np.clip(np.searchsorted(times_s, beats), 1, len(times_s) - 1)
    nearest = np.where(beats - times_s[after - 1] <= times_s[after] - beats, after - 1, after)
    return np.unique(nearest)


def windows(shot: Window, max_frames: int) -> Iterator[Window]:
    """Windows of `max_frames` one after another; the last one has what is left."""
    for start in range(shot.start, shot.end, max_frames):
        yield Window(start=start, end=min(start + max_frames, shot.end))
