"""Cuts, windows and the cheap filters on made-up frames."""

import cv2
import numpy as np
import pytest

from fw_data.quality.filters import FilterConfig, reject, score
from fw_data.shots.shots import ShotCutter, Window, windows


def _noise(seed: int, level: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(level, level + 60, (4, 6, 3), dtype=np.uint8), (64, 36))


def test_a_hard_cut_is_found_at_its_frame():
    cutter = ShotCutter(fps=24.0, min_frames=5)
    for index in range(40):
        cutter.add(np.roll(_noise(0, 10) if index < 23 else _noise(1, 170), index, 1))
    assert cutter.shots() == [Window(start=0, end=23), Window(start=23, end=40)]


def test_a_gap_is_a_cut_and_quiet_video_is_one_shot():
    cutter = ShotCutter(fps=24.0, min_frames=5)
    for index in range(20):
        cutter.add(np.roll(_noise(0, 60), index, 1), gap=index == 9)
    assert cutter.shots() == [Window(start=0, end=9), Window(start=9, end=20)]
    assert ShotCutter(fps=24.0, min_frames=5).shots() == []


def test_windows_cover_a_shot_once():
    spans = list(windows(Window(start=7, end=30), 10))
    assert [(span.start, span.end) for span in spans] == [(7, 17), (17, 27), (27, 30)]


def test_each_filter_names_what_it_saw(scene):
    moving = scene(11)["video"]
    config = FilterConfig()
    assert reject(score(moving), config) is None
    cases = {
        "too-dark": np.zeros_like(moving),
        "no-detail": np.full_like(moving, 128),
        "no-motion": moving[:1].repeat(11, 0),
    }
    for code, frames in cases.items():
        found = reject(score(frames), config)
        assert found is not None
        assert found.code == code
    off = FilterConfig(min_brightness=0.0, min_contrast=0.0, min_motion_px=0.0, min_sharpness=0.0, max_overlay=0.0)
    assert all(reject(score(frames), off) is None for frames in cases.values())


def test_motion_is_measured_in_pixels(scene):
    """A texture that moves by one pixel per frame, eleven frames, pairs two frames apart."""
    wide = scene(1, height=64, width=120)["video"][0]
    frames = np.stack([wide[:, i : i + 96] for i in range(11)])
    assert score(frames)["motion_px"] == pytest.approx(2.0, abs=0.25)


def test_a_moving_thing_before_a_still_camera_is_no_camera_motion(scene):
    still = scene(1, height=64, width=96)["video"][0]
    frames = np.repeat(still[None], 11, 0).copy()
    for index in range(11):
        frames[index, 20:40, 5 + 5 * index : 25 + 5 * index] = 255 - still[20:40, 5:25]
    found = reject(score(frames), FilterConfig())
    assert found is not None
    assert found.code == "no-motion"
