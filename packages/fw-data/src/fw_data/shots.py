"""Where a video is cut: shots by PySceneDetect, breaks at damaged data, and windows of at most N frames inside shots.

Frame spans are half open, [start, end).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

THUMBNAIL_LONG_SIDE = 256
"""What the shot detector sees; PySceneDetect's own down-scaling aims at the same."""


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
    """Takes thumbnails one by one and remembers where shots begin. Memory: one number per shot."""

    fps: float
    """Nominal frame rate."""
    min_frames: int
    """Cuts closer together than this are one cut."""
    starts: list[int] = field(default_factory=lambda: [0])
    """First frame of each shot so far."""
    frames: int = 0
    """Frames seen so far."""

    def __post_init__(self) -> None:
        from scenedetect import AdaptiveDetector, FrameTimecode

        self._timecode = FrameTimecode
        self._new_detector = lambda: AdaptiveDetector(min_scene_len=self.min_frames)
        self._detector = self._new_detector()

    def add(self, thumbnail_bgr: UInt8[np.ndarray, "h w 3"], *, gap: bool = False) -> None:
        """The next frame; `gap` says that frames are missing before it."""
        if gap and self.frames:
            self._start_at(self.frames)
            self._detector = self._new_detector()
        for cut in self._detector.process_frame(self._timecode(self.frames, self.fps), thumbnail_bgr):
            self._start_at(cut.frame_num)
        self.frames += 1

    def _start_at(self, frame: int) -> None:
        if self.starts[-1] < frame:
            self.starts.append(frame)

    def shots(self) -> list[Window]:
        """The shots of the frames seen so far."""
        ends = [*self.starts[1:], self.frames]
        return [Window(start=a, end=b) for a, b in zip(self.starts, ends, strict=True) if b > a]


def windows(shot: Window, max_frames: int) -> Iterator[Window]:
    """Windows of `max_frames` one after another; the last one has what is left."""
    for start in range(shot.start, shot.end, max_frames):
        yield Window(start=start, end=min(start + max_frames, shot.end))
