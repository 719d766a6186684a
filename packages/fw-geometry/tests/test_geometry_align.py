"""Umeyama and the robust scale fits: exact recovery, optimality, and known breakdown points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fw_geometry import Sim3, align_poses, fit_scale, fit_scale_shift_disparity, make_trajectory, umeyama


def random_sim3(rng: np.random.Generator) -> Sim3:
    return Sim3(scale=float(rng.uniform(0.1, 10)), R=Rotation.random(rng=rng).as_matrix(), t=rng.normal(size=3) * 5)


@given(seed=st.integers(0, 2**32 - 1))
def test_umeyama_recovers_a_similarity(seed):
    rng = np.random.default_rng(seed)
    truth, src = random_sim3(rng), rng.normal(size=(int(rng.integers(3, 30)), 3))
    fit = umeyama(src, truth.apply(src))
    assert fit.scale == pytest.approx(truth.scale)
    np.testing.assert_allclose(fit.R, truth.R, atol=1e-8)
    np.testing.assert_allclose(fit.t, truth.t, atol=1e-7)
    np.testing.assert_allclose(fit.inverse().apply(fit.apply(src)), src, atol=1e-9)


def test_umeyama_is_the_minimum():
    rng = np.random.default_rng(1)
    src, dst, w = rng.normal(size=(12, 3)), rng.normal(size=(12, 3)), rng.uniform(0, 2, 12)

    def cost(fit: Sim3) -> float:
        return float((w * ((fit.apply(src) - dst) ** 2).sum(-1)).sum())

    best = umeyama(src, dst, w)
    for _ in range(200):
        wobble = Rotation.from_rotvec(rng.normal(size=3) * 0.03).as_matrix()
        other = Sim3(
            scale=best.scale * (1 + rng.normal() * 0.03), R=wobble @ best.R, t=best.t + rng.normal(size=3) * 0.03
        )
        assert cost(other) > cost(best)


def test_umeyama_weights_are_repeats_and_zero_weight_hides_nan():
    rng = np.random.default_rng(2)
    src, dst = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    counts = np.array([1, 2, 3, 1, 0])
    dst[4] = np.nan
    a = umeyama(src, dst, counts.astype(float))
    b = umeyama(np.repeat(src, counts, axis=0), np.repeat(dst, counts, axis=0))
    np.testing.assert_allclose(a.apply(src), b.apply(src), atol=1e-12)
    masked = umeyama(src, dst, counts > 0)
    np.testing.assert_allclose(masked.R @ masked.R.T, np.eye(3), atol=1e-12)


def test_umeyama_never_mirrors_and_can_keep_the_scale():
    rng = np.random.default_rng(3)
    src = rng.normal(size=(20, 3))
    assert np.linalg.det(umeyama(src, src * (1, 1, -1)).R) == pytest.approx(1)
    assert umeyama(src, src * 3, with_scale=False).scale == 1


def test_umeyama_on_a_line_fits_the_line():
    src = np.linspace(0, 1, 9)[:, None] * np.array([0.0, 0.0, 1.0])
    dst = src @ Rotation.from_euler("x", 1.0).as_matrix().T * 2 + 1
    np.testing.assert_allclose(umeyama(src, dst).apply(src), dst, atol=1e-12)


def test_align_poses_agrees_with_umeyama_and_knows_the_turn_of_a_straight_path(random_poses):
    gt = random_poses(12)
    sim3 = random_sim3(np.random.default_rng(3))
    for path in (gt, make_trajectory("dolly", 9, width=8, height=8).pose_c2w):
        fit = align_poses(sim3.inverse().apply_poses(path), path)
        assert fit.scale == pytest.approx(sim3.scale)
        np.testing.assert_allclose(fit.R, sim3.R, atol=1e-9)
        np.testing.assert_allclose(fit.t, sim3.t, atol=1e-9)
    noisy = gt.copy()
    noisy[:, :3, 3] += np.random.default_rng(0).normal(size=(12, 3))
    fit = align_poses(noisy, gt)
    np.testing.assert_allclose(fit.R, np.eye(3), atol=1e-12)
    a, b = (p[:, :3, 3] - p[:, :3, 3].mean(0) for p in (noisy, gt))
    assert fit.scale == pytest.approx(np.linalg.lstsq(a.reshape(-1, 1), b.ravel())[0][0])
    assert align_poses(noisy, gt, with_scale=False).scale == 1


def test_align_poses_refuses():
    forward, still = (make_trajectory(name, 5, width=8, height=8).pose_c2w for name in ("dolly", "still"))
    backward = forward.copy()
    backward[:, :3, 3] *= -1
    with pytest.raises(ValueError, match="with_scale"):
        align_poses(still, forward)
    with pytest.raises(ValueError, match=r"rotation|opposite|way"):
        align_poses(backward, forward)
    with pytest.raises(ValueError, match="frames"):
        align_poses(forward[:0], forward[:0])


def test_sim3_moves_poses_as_rigid_cameras(random_poses):
    poses, fit = random_poses(4), random_sim3(np.random.default_rng(4))
    moved = fit.apply_poses(poses)
    np.testing.assert_allclose(moved[:, :3, 3], fit.apply(poses[:, :3, 3]))
    point_c = np.array([0.3, 0.2, 2.0])
    world = poses[:, :3, :3] @ point_c + poses[:, :3, 3]
    back = np.einsum("fji,fj->fi", moved[:, :3, :3], fit.apply(world) - moved[:, :3, 3])
    np.testing.assert_allclose(back, np.tile(fit.scale * point_c, (4, 1)), atol=1e-9)


@pytest.mark.parametrize(
    ("src", "weights", "message"),
    [
        (np.ones((4, 3)), None, "points|place"),
        (np.full((4, 3), np.nan), None, "finite"),
        (np.ones((4, 3)), np.zeros(4), "mask"),
        (np.ones((4, 3)), np.array([1.0, -1, 1, 1]), "weights|negative"),
    ],
)
def test_umeyama_refuses(src, weights, message):
    with pytest.raises(ValueError, match=message):
        umeyama(src, np.ones((4, 3)), weights)


@given(seed=st.integers(0, 1000), outliers=st.floats(0.0, 0.4))
def test_fit_scale_survives_outliers(seed, outliers):
    rng = np.random.default_rng(seed)
    pred = rng.uniform(0.5, 9, (20, 30))
    target = pred * 2.5 * np.exp(rng.normal(size=pred.shape) * 0.01)
    bad = rng.uniform(size=pred.shape) < outliers
    target[bad] *= rng.uniform(3, 50, bad.sum())
    assert fit_scale(pred, target) == pytest.approx(2.5, rel=0.01)
    assert fit_scale(pred, target, ~bad, robust=False) == pytest.approx(2.5, rel=0.01)


def test_fit_scale_plain_is_least_squares_and_ignores_nan():
    rng = np.random.default_rng(0)
    pred, target, w = rng.uniform(1, 2, 50), rng.uniform(1, 2, 50), rng.uniform(0, 1, 50)
    expected = np.linalg.lstsq(np.sqrt(w)[:, None] * pred[:, None], np.sqrt(w) * target, rcond=None)[0][0]
    assert fit_scale(pred, target, w, robust=False) == pytest.approx(expected)
    pred[3] = np.nan
    assert np.isfinite(fit_scale(pred, target, w))
    with pytest.raises(ValueError, match="scale"):
        fit_scale(pred, -target, w)
    with pytest.raises(ValueError, match=r"entry|entries"):
        fit_scale(np.zeros(4), np.ones(4))


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), outliers=st.floats(0.0, 0.35))
def test_disparity_fit_survives_outliers(seed, outliers):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 20, (30, 40))
    disparity = (1 / depth - 0.03) / 0.4
    depth *= np.exp(rng.normal(size=depth.shape) * 0.005)
    bad = rng.uniform(size=depth.shape) < outliers
    depth[bad] = rng.uniform(0.2, 20, bad.sum())
    depth[0] = 0.0
    fit = fit_scale_shift_disparity(disparity, depth)
    assert fit.scale == pytest.approx(0.4, rel=0.02)
    assert fit.shift == pytest.approx(0.03, abs=0.005)
    assert fit.inlier_fraction > 0.5 * (1 - outliers)
    assert fit.residual < 0.05


def test_disparity_fit_plain_is_polyfit_and_inverts():
    rng = np.random.default_rng(0)
    disparity, depth = rng.uniform(1, 5, 60), rng.uniform(1, 2, 60)
    depth = 1 / (0.3 * disparity + 0.1 + rng.normal(size=60) * 0.01)
    weights = rng.uniform(0.1, 1, 60)
    slope, offset = np.polyfit(disparity, 1 / depth, 1, w=np.sqrt(weights))
    fit = fit_scale_shift_disparity(disparity, depth, weights, robust=False)
    assert (fit.scale, fit.shift) == pytest.approx((slope, offset))
    np.testing.assert_allclose(1 / fit.depth(disparity, 1e6), slope * disparity + offset)
    assert fit.depth(np.array([-100.0]), 50.0)[0] == 50


def test_disparity_fit_is_exact_on_exact_data_and_on_two_points():
    depth = np.linspace(1, 9, 101)
    fit = fit_scale_shift_disparity((1 / depth - 0.2) / 3, depth)
    assert (fit.scale, fit.shift) == pytest.approx((3, 0.2))
    assert fit.inlier_fraction == 1
    two = fit_scale_shift_disparity(np.array([1.0, 2.0]), np.array([1.0, 0.5]))
    assert (two.scale, two.shift) == pytest.approx((1, 0), abs=1e-12)


@pytest.mark.parametrize(
    ("disparity", "depth", "message"),
    [
        (np.ones(9), np.linspace(1, 2, 9), "two different disparities"),
        (np.linspace(1, 2, 9), np.zeros(9), "0 usable"),
        (np.linspace(1, 2, 9), np.linspace(1, 2, 9), "not positive"),
    ],
)
def test_disparity_fit_refuses(disparity, depth, message):
    with pytest.raises(ValueError, match=message):
        fit_scale_shift_disparity(disparity, depth)
