"""Sharpness, overlays, sky, and a camera at rest before a crowd."""

import cv2
import numpy as np
import pytest

from fw_data.quality.filters import FilterConfig, reject, score
from fw_data.quality.image_scores import overlay_fraction, sharpness, sky_fraction


def _scene(frames: int, width: int = 640, height: int = 360, speed: float = 6.0, seed: int = 0) -> np.ndarray:
    """An image with detail of every size that slides past."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height * 2, width * 2, 3), np.float32)
    for cells in (6, 24, 96, 384):
        noise = rng.random((cells, 2 * cells, 3)).astype(np.float32)
        total += cv2.resize(noise, (total.shape[1], total.shape[0]), interpolation=cv2.INTER_CUBIC)
    image = np.clip(total / 4 * 2 - 0.5, 0, 1) * 255
    moves = [np.array([[1, 0, -speed * i], [0, 1, -0.5 * speed * i]], np.float32) for i in range(frames)]
    return np.stack([cv2.warpAffine(image, m, (width, height)) for m in moves]).astype(np.uint8)


def test_sharpness_falls_with_blur_and_hardly_changes_with_size():
    frames = _scene(2, 1280, 720)
    sharp = sharpness(frames)
    blurs = [sharpness(np.stack([cv2.GaussianBlur(f, (0, 0), sigma) for f in frames])) for sigma in (2, 6, 16)]
    assert sharp > blurs[0] > 4 * blurs[1] > 16 * blurs[2]
    for side in (960, 640, 320):
        resized = np.stack([cv2.resize(f, (side, side * 9 // 16), interpolation=cv2.INTER_AREA) for f in frames])
        assert 0.45 < sharpness(resized) / sharp < 1.2
    dim = (frames.astype(np.float32) * 0.4).astype(np.uint8)
    assert sharpness(dim) == pytest.approx(sharp, rel=0.1)


def test_a_blurred_clip_is_turned_away_and_a_sharp_one_is_not():
    frames = _scene(11)
    assert reject(score(frames), FilterConfig()) is None
    found = reject(score(np.stack([cv2.GaussianBlur(f, (0, 0), 9) for f in frames])), FilterConfig())
    assert found is not None
    assert found.code == "blurred"


def test_captions_are_found_where_they_are_burned_in_and_not_where_they_belong_to_the_scene():
    frames = _scene(11)
    burned = frames.copy()
    for frame in burned:
        cv2.putText(frame, "LIVE FROM SOMEWHERE", (60, 300), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (255, 255, 255), 4)
        cv2.putText(frame, "CHANNEL 5", (20, 50), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 0), 4)
    in_scene = frames.copy()
    for index, frame in enumerate(in_scene):
        at = (200 - 6 * index, 200 - 3 * index)
        cv2.putText(frame, "A SHOP SIGN", at, cv2.FONT_HERSHEY_SIMPLEX, 1.4, (255, 255, 255), 4)
    assert overlay_fraction(frames) < 0.002
    assert overlay_fraction(in_scene) < 0.005
    assert overlay_fraction(burned) > 0.04
    assert overlay_fraction(burned[:1].repeat(11, 0)) == 0.0  # nothing changes, so nothing can be compared
    found = reject(score(burned), FilterConfig())
    assert found is not None
    assert found.code == "overlay"


def test_black_bars_are_no_overlay():
    frames = _scene(11)
    frames[:, :45] = frames[:, -45:] = 0
    assert overlay_fraction(frames) < 0.005


def test_sky_is_what_is_smooth_and_reaches_the_upper_rim():
    ground = _scene(1)[0]
    sky = ground.copy()
    sky[:180] = np.linspace((90, 150, 235), (170, 200, 240), 180)[:, None]
    lake = ground.copy()
    lake[180:] = (90, 150, 235)
    assert sky_fraction(sky[None]) == pytest.approx(0.5, abs=0.05)
    assert sky_fraction(ground[None]) < 0.02
    assert sky_fraction(lake[None]) < 0.02


def test_a_gray_sky_of_black_and_white_footage_is_sky():
    ground = np.repeat(_scene(1)[0].mean(axis=-1, keepdims=True).astype(np.uint8) // 2, 3, axis=-1)
    sky = ground.copy()
    sky[:180] = np.linspace(100, 120, 180).astype(np.uint8)[:, None, None]
    assert sky_fraction(sky[None]) == pytest.approx(0.5, abs=0.05)
    assert sky_fraction(ground[None]) < 0.02


def test_a_crowd_before_a_fixed_camera_is_no_camera_motion():
    """Half a dozen walkers, flicker and noise before a street that does not move, as a surveillance camera sees it."""
    rng = np.random.default_rng(0)
    street = _scene(1, seed=1)[0]
    walkers = [(int(rng.integers(0, 500)), int(rng.integers(100, 200)), int(rng.integers(-9, 10)), k) for k in range(7)]
    frames = []
    for index in range(25):
        frame = street.copy()
        for left, top, speed, seed in walkers:
            at = np.clip(left + speed * index, 0, 600)
            person = _scene(1, 40, 120, seed=seed + 5)[0]
            frame[top : top + 120, at : at + 40] = person[:, : 640 - at]
        flicker = rng.normal(0, 3) + rng.normal(0, 4, frame.shape)
        frames.append(np.clip(frame + flicker, 0, 255).astype(np.uint8))
    found = reject(score(np.stack(frames)), FilterConfig())
    assert found is not None
    assert found.code == "no-motion"
    drifting = np.stack([np.roll(frame, index, 1) for index, frame in enumerate(frames)])
    assert score(drifting)["motion_px"] > 0.8
