"""Metrics against hand-computed cases: known offsets, known angles, planes seen from two places."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fw_geometry import (
    Sim3,
    abs_rel,
    ate,
    camera_error,
    chamfer,
    delta_accuracy,
    make_trajectory,
    point_distances,
    reprojection_consistency,
    rpe,
)


def moved(poses: np.ndarray, seed: int = 0) -> tuple[np.ndarray, Sim3]:
    rng = np.random.default_rng(seed)
    sim3 = Sim3(scale=3.0, R=Rotation.random(rng=rng).as_matrix(), t=rng.normal(size=3))
    return sim3.apply_poses(poses), sim3


def test_ate_is_zero_up_to_a_similarity_and_measures_in_units_of_the_truth(random_poses):
    gt = random_poses(20)
    pred, sim3 = moved(gt)
    result = ate(pred, gt)
    assert result.rmse < 1e-12
    assert result.alignment.scale == pytest.approx(1 / sim3.scale)
    assert ate(pred, gt, align="se3").rmse > 0.1
    shifted = gt.copy()
    shifted[:, 0, 3] += 0.25
    plain = ate(shifted, gt, align="none")
    assert (plain.rmse, plain.mean, plain.median, plain.max) == pytest.approx((0.25,) * 4)
    assert ate(shifted, gt, align="se3").rmse < 1e-12


def test_ate_does_not_reward_a_path_that_stands_still():
    moving = make_trajectory("truck", 9, width=8, height=8, distance=8.0).pose_c2w
    still = make_trajectory("still", 9, width=8, height=8).pose_c2w
    expected = np.std(np.arange(9.0))
    assert ate(still, moving).rmse == pytest.approx(expected)
    assert ate(moving, still).rmse == pytest.approx(expected)
    assert ate(still, still).rmse == 0


def test_rpe_of_constant_drift(random_poses):
    gt = random_poses(10)
    drift = np.eye(4)
    drift[:3, :3] = Rotation.from_euler("y", 2, degrees=True).as_matrix()
    pred = [gt[0]]
    for step in np.linalg.inv(gt[:-1]) @ gt[1:]:
        pred.append(pred[-1] @ step @ drift)
    result = rpe(np.stack(pred), gt, align="none")
    assert result.rot_deg == pytest.approx(2)
    assert result.trans == pytest.approx(0, abs=1e-12)
    trans, rot_deg = rpe(moved(gt)[0], gt, delta=3)
    assert (trans, rot_deg) == pytest.approx((0, 0), abs=1e-9)
    with pytest.raises(ValueError, match=r"delta.*10"):
        rpe(gt, gt, delta=10)


def test_rpe_shows_no_false_angle_for_badly_stored_rotations(random_poses):
    gt = random_poses(10)
    rounded = gt.copy()
    rounded[:, :3, :3] *= 1 - 1e-4
    assert rpe(rounded, gt).rot_deg < 1e-9


def test_camera_error_of_known_turns():
    gt = make_trajectory("truck", 5, width=8, height=8).pose_c2w
    pred = gt.copy() * np.where(np.arange(4) == 3, 7.0, 1.0)  # any scale
    pred[:, 3, 3] = 1
    turn = Rotation.from_euler("z", 10, degrees=True).as_matrix()
    pred[1:, :3, 3] = pred[1:, :3, 3] @ turn.T
    pred[1:, :3, :3] = Rotation.from_euler("x", 4, degrees=True).as_matrix()
    assert camera_error(pred, gt) == pytest.approx((4, 10))
    pan = make_trajectory("pan", 5, width=8, height=8).pose_c2w
    assert camera_error(pan, pan).rotation_deg == pytest.approx(0, abs=1e-6)
    assert np.isnan(camera_error(pan, pan).translation_deg)
    assert camera_error(pan, gt).translation_deg == 90
    world = np.linalg.inv(pan[3]) @ gt
    assert camera_error(world, gt) == pytest.approx((0, 0), abs=1e-5)


def test_path_metrics_refuse_different_lengths(random_poses):
    for metric in (ate, rpe, camera_error):
        with pytest.raises((ValueError, TypeError)):
            metric(random_poses(3), random_poses(4))
        broken = random_poses(3)
        broken[1, 0, 3] = np.nan
        with pytest.raises(ValueError, match="finite"):
            metric(broken, random_poses(3))
    with pytest.raises(ValueError, match=r"two|2"):
        camera_error(random_poses(1), random_poses(1))


def test_depth_metrics():
    gt = np.array([[1.0, 2.0, 0.0], [4.0, np.nan, 5.0]])
    pred = np.array([[1.1, 1.0, 9.0], [4.0, 9.0, -1.0]])
    mask = np.array([[True, True, True], [True, True, False]])
    assert abs_rel(pred, gt, mask) == pytest.approx((0.1 + 0.5 + 0) / 3)
    assert delta_accuracy(pred, gt, mask) == pytest.approx(2 / 3)
    assert delta_accuracy(pred, gt) == pytest.approx(2 / 4)
    assert delta_accuracy(pred, gt, mask, threshold=2.5) == 1
    with pytest.raises(ValueError, match="pixel"):
        abs_rel(pred, gt, ~mask & False)
    with pytest.raises(ValueError, match="1"):
        abs_rel(pred * np.where(pred == 4.0, np.nan, 1), gt)


def test_chamfer_is_the_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(55, 3))
    table = np.linalg.norm(a[:, None] - b[None], axis=-1)
    assert chamfer(a, b) == pytest.approx((table.min(1).mean() + table.min(0).mean()) / 2)
    np.testing.assert_allclose(point_distances(a, b)[1], table.min(0))
    assert chamfer(a, a) == 0
    with pytest.raises(ValueError, match="b "):
        chamfer(a, b[:0])


def plane_depth(cameras, normal, offset):
    """Exact z-depth of the plane normal . X = offset from each camera."""
    columns, rows = np.meshgrid(np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5)
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    depth = []
    for camera in cameras:
        rays = pixels @ np.linalg.inv(camera.K).T @ camera.pose_c2w[:3, :3].T
        depth.append((offset - camera.pose_c2w[:3, 3] @ normal) / (rays @ normal))
    return np.stack(depth)


def test_reprojection_consistency_is_exact_on_a_slanted_plane():
    cameras = make_trajectory("orbit", 6, width=32, height=20, angle_rad=0.3)
    depth = plane_depth(cameras, np.array([0.3, -0.2, 1.0]), 1.1)
    assert depth.min() > 0
    good = reprojection_consistency(depth, cameras.K, cameras.pose_c2w, gap=2)
    assert good.mean < 1e-12
    assert good.inlier_fraction == 1
    assert 0.6 < good.overlap < 1
    assert 4 * 32 * 20 * good.overlap == pytest.approx(good.comparisons)


def test_reprojection_consistency_sees_wrong_scale_and_wrong_pose():
    cameras = make_trajectory("truck", 4, width=32, height=20, distance=0.6)
    depth = plane_depth(cameras, np.array([0.0, 0.0, 1.0]), 1.0)
    wrong = depth * np.array([1, 1.1, 1, 1.1])[:, None, None]
    assert reprojection_consistency(wrong, cameras.K, cameras.pose_c2w).median == pytest.approx(0.1, abs=0.011)
    assert reprojection_consistency(wrong, cameras.K, cameras.pose_c2w).inlier_fraction == 0
    tilted = plane_depth(cameras, np.array([0.5, 0.0, 1.0]), 1.0)
    assert reprojection_consistency(tilted, cameras.K, cameras.pose_c2w).mean < 1e-12
    assert reprojection_consistency(tilted, cameras.K, cameras.scaled(1.5).pose_c2w).mean > 0.02


def test_reprojection_consistency_skips_invalid_masked_and_edge_pixels():
    cameras = make_trajectory("still", 2, width=8, height=6)
    depth = np.ones((2, 6, 8))
    depth[:, :, 4:] = 3.0
    depth[0, 0, 0] = 0.0
    mask = np.ones(depth.shape, dtype=bool)
    mask[:, 5] = False
    result = reprojection_consistency(depth, cameras.K, cameras.pose_c2w, mask=mask)
    assert result.mean == pytest.approx(0, abs=1e-12)
    assert result.comparisons == 5 * 8 - 1
    between = make_trajectory("truck", 2, width=8, height=6, distance=0.01)  # a twentieth of a pixel to the side
    aside = reprojection_consistency(depth, between.K, between.pose_c2w)
    assert aside.mean == pytest.approx(0, abs=1e-12)
    assert aside.comparisons == 6 * (8 - 2)  # column 0 leaves the image, column 4 lies on the edge
    nothing = reprojection_consistency(depth * 0, cameras.K, cameras.pose_c2w)
    assert nothing.comparisons == 0
    assert np.isnan(nothing.median)
    with pytest.raises(ValueError, match=r"gap.*2"):
        reprojection_consistency(depth, cameras.K, cameras.pose_c2w, gap=2)
