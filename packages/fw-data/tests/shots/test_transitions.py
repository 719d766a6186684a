"""Fades, dissolves and black stretches: on made-up frames, and on a hand-labeled film where it is present."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fw_data.media.color import ColorConverter
from fw_data.media.decode import read_frames, thumbnail
from fw_data.media.probe import MediaLimits, probe
from fw_data.shots.shots import ShotCutter, Window, choose_frames
from fw_data.shots.transitions import TransitionFinder

_FILM = Path(os.environ.get("FW_SHARED_DATA", Path(__file__).resolve().parents[5] / "shared/data")) / "raw"
_LABELS = [(72, 78), (149, 181), (229, 250), (286, 286), (348, 348), (372, 372), (388, 388), (460, 478)]
_LABELS += [(523, 523), (573, 573), (610, 610), (624, 641), (713, 719)]
"""By eye: hard cuts, and the spans of fades and dissolves."""
_SLACK = 3


def _image(seed: int, level: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(level, level + 180, (9, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (128, 72), interpolation=cv2.INTER_CUBIC)


def _mix(one: np.ndarray, two: np.ndarray, share: float) -> np.ndarray:
    return (one * (1 - share) + two * share).round().astype(np.uint8)


def _moved(seed: int, index: int) -> np.ndarray:
    return np.roll(_image(seed), index, 1)


def _spans(frames: list[np.ndarray], fps: float = 24.0) -> list[tuple[int, int]]:
    finder = TransitionFinder(fps=fps)
    for frame in frames:
        finder.add(frame)
    return [(found.start, found.end) for found in finder.transitions()]


def _near(found: tuple[int, int], wanted: tuple[int, int], slack: int = 3) -> bool:
    return abs(found[0] - wanted[0]) <= slack and abs(found[1] - wanted[1]) <= slack


def test_a_fade_to_black_and_back_is_cut_out():
    black = np.zeros_like(_image(0))
    frames = [_moved(0, i) for i in range(30)]
    frames += [_mix(_moved(0, 30 + i), black, (i + 1) / 16) for i in range(16)]
    frames += [black] * 5
    frames += [_mix(black, _moved(1, i), (i + 1) / 16) for i in range(16)] + [_moved(1, 16 + i) for i in range(30)]
    (found,) = _spans(frames)
    assert _near(found, (30, 66))


def test_a_dissolve_is_cut_out_at_its_place():
    frames = [_moved(0, i // 4) for i in range(30)]
    frames += [_mix(_moved(0, (30 + i) // 4), _moved(1, i // 4), (i + 1) / 13) for i in range(12)]
    frames += [_moved(1, (12 + i) // 4) for i in range(30)]
    (found,) = _spans(frames)
    assert _near(found, (30, 42))


@pytest.mark.parametrize("speed", [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0])
def test_a_steady_pan_is_no_transition(speed):
    wide = cv2.resize(_image(3), (512, 288), interpolation=cv2.INTER_CUBIC)
    shift = [np.array([[1, 0, -speed * i], [0, 1, -0.3 * speed * i]], np.float32) for i in range(60)]
    assert _spans([cv2.warpAffine(wide, m, (128, 72), borderMode=cv2.BORDER_REFLECT) for m in shift]) == []


def test_a_hard_cut_is_no_blend_and_a_black_video_is_left_to_the_filters():
    assert _spans([_moved(0, i) for i in range(30)] + [_moved(1, i) for i in range(30)]) == []
    assert _spans([np.zeros((72, 128, 3), np.uint8)] * 40) == []


def test_shots_lie_between_transitions_and_are_trimmed_inside_the_video_only():
    cutter = ShotCutter(fps=24.0, min_frames=5, trim_s=0.1)
    black = np.zeros_like(_image(0))
    for frame in [*(_moved(0, i) for i in range(20)), *[black] * 6, *(255 - _moved(1, i) // 3 for i in range(20))]:
        cutter.add(frame)
    assert cutter.shots() == [Window(start=0, end=18), Window(start=28, end=46)]


def test_frames_are_chosen_by_their_time_and_none_twice():
    steady = np.arange(30) / 30
    np.testing.assert_array_equal(choose_frames(steady, None), np.arange(30))
    np.testing.assert_array_equal(choose_frames(steady, 10), np.arange(0, 30, 3))
    np.testing.assert_array_equal(choose_frames(steady, 120), np.arange(30))
    uneven = np.array([0.0, 0.02, 0.11, 0.12, 0.31, 0.32, 0.38, 0.52])
    np.testing.assert_array_equal(choose_frames(uneven, 10), [0, 2, 3, 4, 6, 7])
    odd = choose_frames(np.arange(240) / 23.976, 8)
    assert set(np.diff(odd)) <= {2, 3, 4}
    assert len(odd) == pytest.approx(240 / 23.976 * 8, abs=1)


@pytest.mark.skipif(not (_FILM / "sintel_30s.mp4").is_file(), reason="the labeled film (sintel_30s.mp4) is not here")
def test_f1_on_a_labelled_film():
    path = _FILM / "sintel_30s.mp4"
    info, convert = probe(path, MediaLimits()), ColorConverter()
    cutter = ShotCutter(fps=info.fps, min_frames=5)
    for frame in read_frames(path, info, MediaLimits()):
        cutter.add(thumbnail(frame.image, info, convert, 256))
    stretches = [(t.start, t.end) for t in cutter.transitions()]
    cuts = [(c, c) for c in cutter.starts[1:] if not any(start < c < end for start, end in stretches)]
    found = stretches + cuts

    def meet(one: tuple[int, int], two: tuple[int, int]) -> bool:
        return one[0] - _SLACK <= two[1] and two[0] - _SLACK <= one[1]

    hits = sum(any(meet(label, span) for span in found) for label in _LABELS)
    right = sum(any(meet(label, span) for label in _LABELS) for span in found)
    recall, precision = hits / len(_LABELS), right / len(found)
    f1 = 2 * recall * precision / (recall + precision)
    print(f"recall {recall:.2f}, precision {precision:.2f}, F1 {f1:.2f}; found {sorted(found)}")
    assert f1 > 0.95
    inside = set().union(*(range(start, end) for start, end in stretches))
    assert set(range(230, 240)) | set(range(376, 386)) | set(range(625, 632)) <= inside
    assert not inside & (set(range(100, 140)) | set(range(530, 570)) | set(range(655, 700)))
