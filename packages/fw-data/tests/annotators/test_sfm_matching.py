"""Points matched and followed between images whose warp is known, and positions below one pixel."""

import cv2
import numpy as np
import pytest
import torch

from fw_data.annotators.sfm.matching.features import Features, extract_features
from fw_data.annotators.sfm.matching.keyframes import (
    Motion,
    find_corners,
    measure_motion,
    select_keyframes,
    track_points,
)
from fw_data.annotators.sfm.matching.matching import match_keyframes, match_pair, select_pairs, verify_pair
from fw_data.annotators.sfm.matching.networks import WEIGHTS_SHA256, read_wheel_weights
from fw_data.annotators.sfm.matching.patches import align_to_frame, build_levels

HEIGHT, WIDTH = 120, 160
WARP = np.array([[0.97, 0.06, 6.0], [-0.05, 1.02, -3.0], [1e-4, -2e-4, 1.0]])
"""Where a position (pixel centers at + 0.5) of the first image lies in the second."""


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """A random image with detail of many sizes, and the same warped."""
    rng = np.random.default_rng(0)
    image = np.zeros((HEIGHT, WIDTH, 3))
    for size in (8, 20, 60):
        detail = rng.normal(0, 45, (size * HEIGHT // WIDTH, size, 3))
        image += cv2.resize(detail, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    first = np.clip(128 + image, 0, 255).astype(np.uint8)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    second = cv2.warpPerspective(first, np.linalg.inv(half) @ WARP @ half, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    return first, second


def warp(xy: np.ndarray) -> np.ndarray:
    moved = np.c_[xy, np.ones(len(xy))] @ WARP.T
    return moved[:, :2] / moved[:, 2:]


def test_matches_follow_the_warp_and_lie_on_one_plane(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (extract_features(image, 400) for image in images)
    indices = match_pair(first, second)
    a, b = first.positions.numpy()[indices[:, 0]], second.positions.numpy()[indices[:, 1]]
    error = np.linalg.norm(warp(a) - b, axis=1)
    assert len(indices) > 60
    assert np.median(error) < 0.7
    assert (error < 3).mean() > 0.9
    verified = verify_pair(first, second, indices, seed=0)
    assert verified is not None
    assert verified[1] > 0.85
    assert len(verified[0]) > 0.8 * len(indices)


def test_near_pairs_are_matched_without_the_network(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (extract_features(image, 400) for image in images)
    blurred = extract_features(cv2.GaussianBlur(images[1], (0, 0), 4), 400)
    asked: list[int] = []

    def match(a: Features, b: Features) -> np.ndarray:
        asked.append(len(asked))
        return match_pair(a, b)

    near, *far = match_keyframes(
        [first, first, blurred], [(0, 1), (0, 2)], match, seed=0, threads=1, nearest_first=True
    )
    assert asked == [0]  # the second pair
    assert len(near.indices) == len(first.positions)
    assert all(len(pair.indices) < 0.28 * 400 for pair in far)
    match_keyframes([first, second], [(0, 1)], match, seed=0, threads=1)
    assert asked == [0, 1]


def test_false_matches_are_thrown_out(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (extract_features(image, 400) for image in images)
    indices = match_pair(first, second)
    rng = np.random.default_rng(1)
    false = np.stack([rng.integers(len(first.positions), size=60), rng.integers(len(second.positions), size=60)], 1)
    wrong = np.linalg.norm(warp(first.positions.numpy()[false[:, 0]]) - second.positions.numpy()[false[:, 1]], axis=1)
    false = false[wrong > 20]
    verified = verify_pair(first, second, np.concatenate([indices, false]), seed=0)
    assert verified is not None
    kept = {tuple(row) for row in verified[0].tolist()}
    assert sum(tuple(row) in kept for row in false.tolist()) < 0.2 * len(false)  # some lie near their epipolar line
    assert verify_pair(first, second, indices[:10], seed=0) is None


def test_nothing_matches_a_plain_image(images: tuple[np.ndarray, np.ndarray]) -> None:
    plain = extract_features(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), 400)
    assert len(match_pair(extract_features(images[0], 400), plain)) < 20


def test_pairs_hold_all_neighbors(images: tuple[np.ndarray, np.ndarray]) -> None:
    features = [extract_features(images[i % 2], 100) for i in range(5)]
    pairs = select_pairs(features, pairs_per_keyframe=4)
    assert {(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (1, 3), (2, 4)} <= set(pairs)
    assert all(first < second for first, second in pairs)


def test_flow_follows_the_warp(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    start = find_corners(first, 200)
    end, good = track_points(first, second, start)
    error = np.linalg.norm(warp(start) - end, axis=1)
    assert good.mean() > 0.5
    assert np.median(error[good]) < 0.3
    assert (error[good] < 1.5).mean() > 0.9


def test_patches_are_found_below_a_tenth_of_a_pixel(images: tuple[np.ndarray, np.ndarray]) -> None:
    gray = cv2.GaussianBlur(cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, (0, 0), 1.0)
    shift = np.array([2.3, -1.6])
    moved = cv2.warpAffine(gray, np.c_[np.eye(2), shift].astype(np.float32), (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    xy = torch.tensor([[x, y] for x in (40.5, 80.2, 120.7) for y in (40.5, 75.3)])
    image = torch.from_numpy(np.stack([gray, moved]))
    levels = build_levels(image, torch.zeros(len(xy), dtype=torch.int64), xy)
    found, correlation = align_to_frame(levels, 1, torch.arange(len(xy)), xy, torch.eye(2).expand(len(xy), 2, 2))
    assert float(correlation.min()) > 0.99
    assert np.abs(found.numpy() - xy.numpy() - shift).max() < 0.1


def test_key_frames_lie_evenly_on_the_path_and_on_both_sides_of_a_break() -> None:
    step = np.r_[np.full(20, 1.0), np.full(10, 4.0)]
    steady = Motion(step_px=step, survival=np.ones(30), corners=np.full(31, 100.0), span_px=60.0)
    chosen = select_keyframes(steady, diagonal_px=200.0, max_keyframes=12)
    assert chosen[0] == 0
    assert chosen[-1] == 30
    assert len(chosen) <= 12
    slow, fast = sum(frame < 20 for frame in chosen) / 20, sum(frame >= 20 for frame in chosen) / 11
    assert fast > 2 * slow
    survival = np.ones(30)
    survival[7] = 0.1
    broken = Motion(step_px=step, survival=survival, corners=np.full(31, 100.0), span_px=60.0)
    assert {7, 8} <= set(select_keyframes(broken, diagonal_px=200.0, max_keyframes=12))


def test_motion_tells_still_from_moving(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    still = measure_motion(np.stack([first] * 4))
    assert still.span_px == 0
    assert still.survival.min() == 1
    assert measure_motion(np.stack([first, second])).span_px > 3


def test_weights_that_are_not_the_recorded_ones_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS_SHA256, "xfeat.pt", "0" * 64)
    with pytest.raises(ValueError, match="sha256"):
        read_wheel_weights("xfeat.pt")
