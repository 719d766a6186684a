"""Known corruption of a perfect clip gives the known figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fw_data.dataset.clip import Clip
from fw_data.inspect.compare import ClipTruth, compare_clip, median_of, read_truth
from fw_data.media.resize import place
from fw_geometry.camera import Trajectory


@pytest.fixture
def truth() -> ClipTruth:
    frames, height, width = 4, 16, 32
    pose = np.tile(np.eye(4), (frames, 1, 1))
    pose[:, 0, 3] = np.arange(frames)
    pose[:, 1, 3] = [0.0, 0.5, 0.0, -0.5]
    K = np.tile(np.array([[40.0, 0, 16], [0, 40, 8], [0, 0, 1]]), (frames, 1, 1))
    depth = np.linspace(2, 6, frames * height * width, dtype=np.float32).reshape(frames, height, width)
    depth[:, :4] = 0
    return ClipTruth(depth_m=depth, trajectory=Trajectory(pose_c2w=pose, K=K, width=width, height=height))


@pytest.fixture
def perfect(truth: ClipTruth) -> Clip:
    """The truth in other units: half as large."""
    pose = truth.trajectory.pose_c2w.copy()
    pose[:, :3, 3] /= 2
    frames, height, width = truth.depth_m.shape
    return Clip(
        id="clip",
        video=np.zeros((frames, height, width, 3), np.uint8),
        depth_m=truth.depth_m / np.float32(2),
        confidence=np.ones((frames, height, width), np.float32),
        K=truth.trajectory.K,
        pose_c2w=pose,
        pose_confidence=np.ones(frames, np.float32),
        caption="",
        fps=16.0,
        units="scene",
        frame_index=np.arange(frames),
    )


def test_a_perfect_clip_in_other_units_is_perfect(truth: ClipTruth, perfect: Clip) -> None:
    row = compare_clip("a.mp4", perfect, truth)
    assert row.ate_percent == pytest.approx(0, abs=1e-9)
    assert row.focal_error_percent == 0
    assert row.abs_rel == pytest.approx(0, abs=1e-6)
    assert row.abs_rel_surest == pytest.approx(0, abs=1e-6)
    assert (row.good_depth, row.coverage) == (1.0, 1.0)
    assert row.path_length == pytest.approx(3 * np.hypot(1, 0.5))


def test_known_corruption_gives_the_known_figures(truth: ClipTruth, perfect: Clip) -> None:
    depth, confidence, K = perfect.depth_m.copy(), perfect.confidence.copy(), perfect.K.copy()
    depth[:, 4:6] *= np.float32(1.2)
    confidence[:, 10:] = 0.1
    K[:, 0, 0] *= 1.02
    row = compare_clip("a.mp4", replace(perfect, depth_m=depth, confidence=confidence, K=K), truth)
    assert row.coverage == pytest.approx(0.5)
    assert row.good_depth == pytest.approx(4 / 12)
    assert row.abs_rel == pytest.approx(0.2 * 2 / 6, rel=1e-3)
    assert row.abs_rel_surest == pytest.approx(0.2 * 2 / (0.8 * 12), rel=1e-3)
    assert row.focal_error_percent == pytest.approx(2.0)


def test_missing_depth_counts_as_wholly_wrong(truth: ClipTruth, perfect: Clip) -> None:
    depth = perfect.depth_m.copy()
    depth[:, :10] = 0  # of the 12 rows with truth, 6 are left; 9.6 are asked for
    row = compare_clip("a.mp4", replace(perfect, depth_m=depth), truth)
    assert row.abs_rel_surest == pytest.approx(3.6 / 9.6, rel=1e-3)


def test_nothing_covered_is_not_good(truth: ClipTruth, perfect: Clip) -> None:
    row = compare_clip("a.mp4", replace(perfect, confidence=np.zeros_like(perfect.confidence)), truth)
    assert np.isnan(row.abs_rel)
    assert (row.coverage, row.good_depth) == (0.0, 0.0)


def test_median_of_rows(truth: ClipTruth, perfect: Clip) -> None:
    row = compare_clip("a.mp4", perfect, truth)
    rows = [row, replace(row, abs_rel=0.3), replace(row, abs_rel=0.1)]
    assert median_of(rows).abs_rel == pytest.approx(0.1)


def test_truth_files_follow_the_stored_frames_and_size(truth: ClipTruth, tmp_path: Path) -> None:
    cameras = truth.trajectory
    np.savez(tmp_path / "a.npz", depth_m=truth.depth_m, K=cameras.K, pose_c2w=cameras.pose_c2w)
    found = read_truth(tmp_path / "a.npz", place(16, 32, "16x16"), np.array([1, 3]))
    assert found.depth_m.shape == (2, 16, 16)
    np.testing.assert_array_equal(found.depth_m, truth.depth_m[[1, 3], :, 8:24])
    assert found.trajectory.K[0, 0, 2] == 8
    np.testing.assert_array_equal(found.trajectory.pose_c2w, cameras.pose_c2w[[1, 3]])
    assert (found.trajectory.width, found.trajectory.height) == (16, 16)
