"""Disparity to depth: exact lines come back, wrong pixels do not matter, weak frames borrow, flicker is damped."""

import numpy as np
import pytest

from fw_data.annotators.depth.alignment import align_disparity

FRAMES, HEIGHT, WIDTH = 12, 24, 32


def made(seed: int, *, scale: np.ndarray, shift: np.ndarray, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(disparity, depth) with 1 / depth = scale * disparity + shift in every frame."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, HEIGHT)[:, None]
    depth = 1.5 + 3 * rows + 0.8 * np.sin(np.linspace(0, 6, WIDTH) + np.arange(FRAMES)[:, None, None] / 3)
    inverse = 1 / depth * (1 + noise * rng.normal(size=depth.shape))
    disparity = (inverse - shift[:, None, None]) / scale[:, None, None]
    return disparity.astype(np.float32), depth.astype(np.float32)


SLOW = 0.02 * (1 + 0.05 * np.sin(np.arange(FRAMES) / 4))
SHIFT = 0.03 + 0.01 * np.cos(np.arange(FRAMES) / 5)
ONES = np.ones((FRAMES, HEIGHT, WIDTH), np.float32)


def test_exact_lines_come_back() -> None:
    disparity, depth = made(0, scale=SLOW, shift=SHIFT)
    found = align_disparity(disparity, depth, ONES)
    np.testing.assert_allclose(found.scale, SLOW, rtol=2e-3)
    np.testing.assert_allclose(found.shift, SHIFT, atol=1e-3)
    np.testing.assert_allclose(found.depth(disparity, 100.0), depth, rtol=2e-3)
    assert found.own.all()
    assert (found.inlier_fraction > 0.99).all()
    assert (found.residual < 1e-3).all()


def test_a_third_of_wrong_depth_does_not_matter() -> None:
    disparity, depth = made(1, scale=SLOW, shift=SHIFT, noise=0.01)
    wrong = depth.copy()
    wrong[:, :, :10] *= 4
    found = align_disparity(disparity, wrong, ONES)
    assert np.median(np.abs(found.depth(disparity, 100.0) / depth - 1)) < 0.012
    assert (found.inlier_fraction < 0.8).all()


def test_frames_that_know_nothing_lie_between_their_neighbors() -> None:
    disparity, depth = made(2, scale=SLOW, shift=SHIFT)
    known = depth.copy()
    known[4:6] = 0  # no depth
    known[8] = known[8, ::-1]  # depth that contradicts the disparity
    found = align_disparity(disparity, known, ONES)
    assert np.array_equal(np.flatnonzero(~found.own), [4, 5, 8])
    assert np.isnan(found.residual[4:6]).all()
    assert (found.inlier_fraction[[4, 5, 8]] == 0).all()
    np.testing.assert_allclose(found.scale, SLOW, rtol=0.01)
    np.testing.assert_allclose(found.depth(disparity, 100.0), depth, rtol=0.02)


def test_weights_leave_pixels_out() -> None:
    disparity, depth = made(3, scale=SLOW, shift=SHIFT)
    wrong, weight = depth.copy(), ONES.copy()
    wrong[:, :16] = 0.5
    weight[:, :16] = 0
    found = align_disparity(disparity, wrong, weight)
    np.testing.assert_allclose(found.depth(disparity, 100.0), depth, rtol=3e-3)


def test_the_prior_damps_flicker_that_only_noise_explains() -> None:
    steady, shift = np.full(FRAMES, 0.02), np.full(FRAMES, 0.03)
    disparity, depth = made(4, scale=steady, shift=shift)
    rng = np.random.default_rng(4)
    bump = np.exp(0.15 * rng.normal(size=(FRAMES, 3, 4))).repeat(8, 1).repeat(8, 2).astype(np.float32)
    loose, tight = (align_disparity(disparity, depth * bump, ONES, step=step) for step in (10.0, 0.005))
    assert np.abs(np.diff(tight.scale)).max() < 0.25 * np.abs(np.diff(loose.scale)).max()
    assert np.abs(tight.scale / steady - 1).mean() < np.abs(loose.scale / steady - 1).mean()


def test_depth_never_passes_the_limit() -> None:
    disparity, depth = made(5, scale=SLOW, shift=SHIFT)
    found = align_disparity(disparity, depth, ONES)
    sky = np.zeros_like(disparity) - 100
    assert (found.depth(sky, 50.0) == 50).all()


def test_nothing_to_align_is_an_error() -> None:
    disparity, depth = made(6, scale=SLOW, shift=SHIFT)
    with pytest.raises(ValueError, match="depth"):
        align_disparity(disparity, np.zeros_like(depth), ONES)
    with pytest.raises(ValueError, match="depth"):
        align_disparity(depth, depth, ONES)
    with pytest.raises(ValueError, match=r"step.*0"):
        align_disparity(disparity, depth, ONES, step=0.0)
