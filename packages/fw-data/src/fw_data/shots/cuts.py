"""Finding hard cuts while the frames of a video pass by: by PySceneDetect, or by the TransNet V2 network.

Both take thumbnails one by one, keep a bounded number of them, and give cuts as the index of a shot's first frame.
Axis legend: f frames, h height, w width, 3 = blue, green, red.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

CutMethod = Literal["adaptive", "transnetv2"]
WINDOW, STEP = 100, 50
"""Frames that the network sees at once, and those in the middle of them that count."""
_MARGIN = (WINDOW - STEP) // 2
_THRESHOLD = 0.5
ShotEnds = Callable[[UInt8[np.ndarray, "f 27 48 3"]], Float32[np.ndarray, " f"]]
"""WINDOW small RGB frames to the probability that a shot ends with each of them."""


@runtime_checkable
class CutDetector(Protocol):
    """Takes the frames of a stretch without gaps."""

    def add(self, thumbnail_bgr: UInt8[np.ndarray, "h w 3"]) -> list[int]:
        """The next frame; returns cuts that are certain now, perhaps some frames ago."""
        ...

    def finish(self) -> list[int]:
        """The cuts that waited for more frames; none may be added afterwards."""
        ...


def make_detector(method: CutMethod, *, first: int, fps: float, min_frames: int) -> CutDetector:
    """A detector for a stretch that begins at frame `first`; cuts closer together than `min_frames` are one cut.

    Raises ValueError when the weights of transnetv2 are not installed.
    """
    if method == "adaptive":
        return AdaptiveCuts(first=first, fps=fps, min_frames=min_frames)
    from fw_data.shots.transnetv2 import shot_ends

    return NetworkCuts(shot_ends, first=first, min_frames=min_frames)


class AdaptiveCuts:
    """PySceneDetect's AdaptiveDetector: changes of color that stand out from those around them."""

    def __init__(self, *, first: int, fps: float, min_frames: int) -> None:
        from scenedetect import AdaptiveDetector, FrameTimecode

        self._timecode, self._fps, self._frame = FrameTimecode, fps, first
        self._detector = AdaptiveDetector(min_scene_len=min_frames)

    def add(self, thumbnail_bgr: UInt8[np.ndarray, "h w 3"]) -> list[int]:
        """Take the next frame; see `CutDetector`."""
        found = self._detector.process_frame(self._timecode(self._frame, self._fps), thumbnail_bgr)
        self._frame += 1
        return [cut.frame_num for cut in found]

    def finish(self) -> list[int]:
        """None: it waits for no frames that could still matter."""
        return []


class NetworkCuts:
    """Windows of frames through a network; the margins of the first and the last one repeat the outermost frame.

    Memory: one window of small frames, whatever the length of the video.

    Args:
        shot_ends: the network.
        first: index of the first frame.
        min_frames: cuts closer together than this are one cut.
    """

    def __init__(self, shot_ends: ShotEnds, *, first: int, min_frames: int) -> None:
        self._shot_ends, self._min_frames = shot_ends, min_frames
        self._recent: list[np.ndarray] = []
        self._added, self._judged = 0, 0
        self._first, self._last_cut, self._ending = first, first, False

    def add(self, thumbnail_bgr: UInt8[np.ndarray, "h w 3"]) -> list[int]:
        """Take the next frame; see `CutDetector`."""
        from fw_data.shots.transnetv2 import HEIGHT, WIDTH

        small = cv2.resize(thumbnail_bgr, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)[..., ::-1]
        if not self._added:
            self._recent = [small] * _MARGIN
        self._recent.append(small)
        self._added += 1
        return self._judge() if len(self._recent) == WINDOW else []

    def finish(self) -> list[int]:
        """The cuts among the last frames."""
        found = []
        while self._judged < self._added:
            self._recent += [self._recent[-1]] * (WINDOW - len(self._recent))
            found += self._judge()
        return found

    def _judge(self) -> list[int]:
        """Cuts among the frames in the middle of a full window; a shot begins where the ends of the last one end."""
        ends = self._shot_ends(np.ascontiguousarray(self._recent))[_MARGIN : _MARGIN + STEP] > _THRESHOLD
        found = []
        for end in ends[: self._added - self._judged]:
            frame = self._first + self._judged
            if self._ending and not end and frame - self._last_cut >= self._min_frames:
                found.append(frame)
                self._last_cut = frame
            self._ending = bool(end)
            self._judged += 1
        self._recent = self._recent[STEP:]
        return found
