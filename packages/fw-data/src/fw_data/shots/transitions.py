"""Frames that belong to no shot: fades, dissolves and black stretches, found on small gray images as they pass by.

A blend is a stretch where the image half-way is the mean of the images at both ends: camera motion is not linear in
this way unless it is so small that both ends still look alike. So a frame counts as blended when the mean fits and

- the ends do not look alike (dissolve), or
- the ends look alike, but one has clearly less contrast (fade to or from a plain color), or one is plain already.

Frames that lead into a black stretch by growing steadily darker belong to it as well. A dissolve between two images
that move much meanwhile is missed.

Axis legend: h height, w width, n pixels of the small image.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

TransitionKind = Literal["blend", "black"]

_WIDTH, _HEIGHT = 32, 12
_BAND = (0.2, 0.8)
"""Rows that are looked at: film often has bars above and below."""
_HALF_WIDTHS_S = (0.08, 0.17, 0.33, 0.5)
"""Half lengths of the stretches that are tested, in seconds."""
_LONGEST = 120
"""Longest half length in frames, whatever the frame rate."""
_LINEAR = 0.12
"""Largest distance of the middle from the mean of the ends, as a share of the distance of the ends."""
_UNLIKE = 0.7
"""Correlation of the ends below which a blend is a dissolve."""
_FADED = 0.25
"""Change of log contrast between the ends from which a blend is a fade."""
_BLACK, _PLAIN = 4.0, 1.0
"""Mean luma below which an image is black; standard deviation below which it is plain (0 to 255)."""
_SUDDEN = 25.0
"""Change of luma between two frames that is a cut to black, not the end of a fade."""
_JOIN_S = 0.15
"""Stretches closer together than this are one."""


@dataclass(frozen=True, kw_only=True)
class Transition:
    """Frames [start, end) that are cut out."""

    start: int
    """First frame."""
    end: int
    """One past the last frame."""
    blended: int
    """Number of frames that fade or dissolve."""
    black: int
    """Number of black or plain frames."""

    def describe(self) -> str:
        """The transition in plain words."""
        parts = [(self.blended, "fade or dissolve"), (self.black, "are black or plain")]
        return " and ".join(f"{count} frames {what}" for count, what in parts if count)


@dataclass(kw_only=True)
class TransitionFinder:
    """Takes the frames of a video one by one. Memory: some bytes per frame and a second of small images."""

    fps: float
    """Nominal frame rate."""
    _black: list[bool] = field(default_factory=list)
    _blended: list[bool] = field(default_factory=list)
    _luma: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._halves = sorted({min(_LONGEST, max(2, round(s * self.fps))) for s in _HALF_WIDTHS_S})
        self._recent: deque[Float32[np.ndarray, " n"]] = deque(maxlen=2 * self._halves[-1] + 1)

    def add(self, thumbnail_bgr: UInt8[np.ndarray, "h w 3"], *, gap: bool = False) -> None:
        """Take the next frame; `gap` is true if frames are missing before it."""
        small = _small(thumbnail_bgr)
        if gap:
            self._recent.clear()
        self._recent.append(small)
        self._black.append(bool(small.mean() < _BLACK or small.std() < _PLAIN))
        self._blended.append(False)
        self._luma.append(float(small.mean()))
        last = len(self._black) - 1
        for half in self._halves:
            if len(self._recent) > 2 * half and blends(
                self._recent[-1 - 2 * half], self._recent[-1 - half], self._recent[-1]
            ):
                reach = max(1, half // 2)
                middle = last - half
                self._blended[middle - reach : middle + reach + 1] = [True] * (2 * reach + 1)

    def transitions(self) -> list[Transition]:
        """The stretches to cut out. A video that is black or plain from end to end has none: that is its content."""
        black, blended = np.array(self._black, bool), np.array(self._blended, bool)
        if black.all():
            return []
        luma = np.asarray(self._luma, np.float32)
        blended |= _darkening(luma, black) | _darkening(luma[::-1], black[::-1])[::-1]
        unusable = black | blended
        edges = np.flatnonzero(np.diff(np.concatenate([[False], unusable, [False]]).astype(np.int8)))
        spans: list[list[int]] = []
        for start, end in edges.reshape(-1, 2).tolist():
            if spans and start - spans[-1][1] <= _JOIN_S * self.fps:
                spans[-1][1] = end
            else:
                spans.append([start, end])
        for span in spans:  # what is left at the ends of the video is too short to be anything
            span[0] = 0 if span[0] <= _JOIN_S * self.fps else span[0]
            span[1] = len(black) if len(black) - span[1] <= _JOIN_S * self.fps else span[1]
        return [
            Transition(
                start=start,
                end=end,
                blended=int((blended & ~black)[start:end].sum()),
                black=int(black[start:end].sum()),
            )
            for start, end in spans
        ]


def _darkening(luma: Float32[np.ndarray, " f"], black: Bool[np.ndarray, " f"]) -> Bool[np.ndarray, " f"]:
    """The frames before each black stretch that grow steadily darker towards it."""
    found = np.zeros_like(black)
    for first in np.flatnonzero(black & ~np.concatenate([[True], black[:-1]])):
        frame = int(first)
        while frame > 0 and not black[frame - 1]:
            step, average = luma[frame - 1] - luma[frame], (luma[frame] - luma[first]) / max(first - frame, 1)
            if step <= 0.3 * average or step > max(4 * average, _SUDDEN) or step < 0.1:
                break
            frame -= 1
        found[frame:first] = True
    return found


def blends(
    before: Float32[np.ndarray, " n"], middle: Float32[np.ndarray, " n"], after: Float32[np.ndarray, " n"]
) -> bool:
    """Whether `middle` is a mix of two different images, or of an image and a plain color."""
    apart = float(np.sqrt(np.mean((after - before) ** 2)))
    contrast = float(before.std()), float(after.std())
    if apart < max(2.0, 0.25 * max(contrast)):
        return False
    off = float(np.sqrt(np.mean((middle - (before + after) / 2) ** 2)))
    if off > _LINEAR * apart or (min(contrast) < _PLAIN and max(contrast) < _PLAIN):
        return False
    if min(contrast) < _PLAIN:
        return True
    alike = float(np.corrcoef(before, after)[0, 1])
    if alike < _UNLIKE:
        return True
    return alike > 0.9 and bool(abs(np.log((contrast[1] + 0.5) / (contrast[0] + 0.5))) > _FADED)


def _small(thumbnail_bgr: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " n"]:
    rows = thumbnail_bgr.shape[0]
    band = thumbnail_bgr[int(_BAND[0] * rows) : max(int(_BAND[1] * rows), int(_BAND[0] * rows) + 1)]
    gray = cv2.resize(cv2.cvtColor(band, cv2.COLOR_BGR2GRAY), (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
    return gray.astype(np.float32).ravel()
