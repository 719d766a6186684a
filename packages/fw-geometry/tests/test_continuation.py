"""Continued paths: parts of a long path, and the path of a clip that continues another."""

import dataclasses

import numpy as np
import pytest

from fw_geometry import make_trajectory
from fw_geometry.continuation import continued, divide, frames_per_segment, total_frames
from fw_geometry.trajectories import from_keyframes


def test_parts_composed_at_their_shared_cameras_give_the_whole_path() -> None:
    whole = make_trajectory("orbit", total_frames(9, 3), width=64, height=48, angle_rad=1.2)
    assert len(whole) == 25
    parts = divide(whole, 3)
    assert [len(part) for part in parts] == [9, 9, 9]
    anchor, poses = np.eye(4), [np.eye(4)[None]]
    for part in parts:
        np.testing.assert_array_equal(part.pose_c2w[0], np.eye(4))
        poses.append(anchor @ part.pose_c2w[1:])
        anchor = poses[-1][-1]
    np.testing.assert_allclose(np.concatenate(poses), whole.pose_c2w, atol=1e-12)


@pytest.mark.parametrize(("total", "count"), [(25, 0), (24, 3), (3, 3), (1, 1)])
def test_a_path_that_does_not_divide_is_refused(total: int, count: int) -> None:
    with pytest.raises(ValueError, match="segments"):
        frames_per_segment(total, count)


def test_a_continuation_repeats_the_motion_from_the_last_camera() -> None:
    before = make_trajectory("orbit", 5, width=64, height=48, angle_rad=0.5)
    zoomed = before.K.copy()
    zoomed[:, [0, 1], [0, 1]] *= np.linspace(1.0, 1.4, 5)[:, None]
    zoom = dataclasses.replace(before, K=zoomed)
    again = continued(zoom)
    np.testing.assert_allclose(again.pose_c2w, before.pose_c2w, atol=1e-12)
    np.testing.assert_array_equal(again.K, np.repeat(zoom.K[-1:], 5, axis=0))
    twice = make_trajectory("orbit", 9, width=64, height=48, angle_rad=1.0)  # an orbit repeats its motion
    np.testing.assert_allclose(before.pose_c2w[-1] @ again.pose_c2w, twice.pose_c2w[4:], atol=1e-12)


def test_a_given_motion_starts_at_the_last_camera() -> None:
    before = make_trajectory("dolly", 5, width=64, height=48)
    poses = make_trajectory("pan", 3, width=64, height=48).pose_c2w[1:]
    motion = from_keyframes(poses, 5, width=64, height=48, fov_rad=0.7)
    path = continued(before, motion)
    np.testing.assert_array_equal(path.pose_c2w[0], np.eye(4))
    np.testing.assert_array_equal(path.K, motion.K)
