"""Every preset by its definition, keyframes, look_at; all rotations orthonormal, all first poses the identity."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fw_geometry import PRESETS, from_keyframes, look_at, make_trajectory, rotation_angles

SIZE: dict[str, Any] = {"width": 64, "height": 36}


@given(
    name=st.sampled_from(sorted(PRESETS)),
    frames=st.integers(1, 30),
    amount=st.floats(-4, 4),
    focus=st.floats(0.1, 20),
    easing=st.sampled_from(["linear", "smooth"]),
)
def test_every_preset_is_a_rigid_motion_from_the_identity(name, frames, amount, focus, easing):
    path = make_trajectory(name, frames, **SIZE, amount=amount, focus_distance=focus, easing=easing)
    assert len(path) == frames
    assert (path.pose_c2w[0] == np.eye(4)).all()
    R = path.pose_c2w[:, :3, :3]
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.tile(np.eye(3), (frames, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1)
    assert path.fov_rad[0, 0] == pytest.approx(np.radians(50))


@given(angle=st.floats(-6, 6), focus=st.floats(0.1, 10))
def test_orbit_keeps_its_distance_and_looks_at_the_focus(angle, focus):
    path = make_trajectory("orbit", 13, **SIZE, angle_rad=angle, focus_distance=focus)
    to_focus = np.array([0, 0, focus]) - path.centers_world
    np.testing.assert_allclose(np.linalg.norm(to_focus, axis=-1), focus)
    np.testing.assert_allclose(path.pose_c2w[:, :3, 2], to_focus / focus, atol=1e-9)
    np.testing.assert_allclose(path.centers_world[:, 1], 0)
    swept = np.unwrap(np.arctan2(-to_focus[:, 0], to_focus[:, 2]))
    np.testing.assert_allclose(swept, np.linspace(0, angle, 13), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "axis"), [("dolly", (0, 0, 1)), ("truck", (1, 0, 0)), ("pedestal", (0, -1, 0)), ("still", (0, 0, 0))]
)
def test_straight_motions_do_not_turn(name, axis):
    options: dict[str, Any] = {} if name == "still" else {"distance": 2.0}
    path = make_trajectory(name, 5, **SIZE, **options)
    assert (path.pose_c2w[:, :3, :3] == np.eye(3)).all()
    np.testing.assert_allclose(path.centers_world, np.linspace(0, 2, 5)[:, None] * np.array(axis), atol=1e-15)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("pan", lambda R: R[:, 2] @ (1, 0, 0)),  # the view direction goes right
        ("tilt", lambda R: R[:, 2] @ (0, -1, 0)),  # the view direction goes up
        ("roll", lambda R: R[:, 0] @ (0, 1, 0)),  # the camera's right side goes down
    ],
)
def test_turns_do_not_move_and_have_the_right_sense(name, seen):
    path = make_trajectory(name, 7, **SIZE, angle_rad=0.6)
    assert (path.centers_world == 0).all()
    np.testing.assert_allclose(rotation_angles(path.pose_c2w[:, :3, :3]), np.linspace(0, 0.6, 7), atol=1e-12)
    assert seen(path.pose_c2w[-1, :3, :3]) == pytest.approx(np.sin(0.6))


def test_spiral_grows_turns_and_looks_at_the_focus():
    path = make_trajectory("spiral", 33, **SIZE, angle_rad=4 * np.pi, distance=0.4, focus_distance=2.0)
    centers = path.centers_world
    np.testing.assert_allclose(np.linalg.norm(centers, axis=-1), np.linspace(0, 0.4, 33), atol=1e-12)
    assert (centers[:, 2] == 0).all()
    np.testing.assert_allclose(np.unwrap(np.arctan2(centers[1:, 1], centers[1:, 0]))[-1], 4 * np.pi)
    to_focus = np.array([0, 0, 2.0]) - centers
    np.testing.assert_allclose(np.cross(path.pose_c2w[:, :3, 2], to_focus), 0, atol=1e-12)
    np.testing.assert_allclose(path.pose_c2w[:, 1, 0], 0, atol=1e-12)  # right stays level: no roll


def test_amount_scales_and_reverses_and_smooth_keeps_the_ends():
    full = make_trajectory("truck", 9, **SIZE)
    back = make_trajectory("truck", 9, **SIZE, amount=-0.5)
    np.testing.assert_allclose(back.centers_world, -0.5 * full.centers_world)
    smooth = make_trajectory("truck", 9, **SIZE, easing="smooth")
    np.testing.assert_allclose(smooth.centers_world[[0, 4, 8]], full.centers_world[[0, 4, 8]])
    assert smooth.centers_world[1, 0] < full.centers_world[1, 0] / 2
    assert make_trajectory("orbit", 9, **SIZE, amount=0).path_length() == 0


def test_intrinsics_options():
    K = np.array([[40.0, 0, 30], [0, 42.0, 20], [0, 0, 1]])
    assert (make_trajectory("pan", 3, **SIZE, K=K).K == K).all()
    per_frame = np.stack([K, K, K])
    per_frame[2, 0, 0] = 50
    assert (per_frame == make_trajectory("pan", 3, **SIZE, K=per_frame).K).all()
    assert make_trajectory("pan", 3, **SIZE, units="metric").units == "metric"
    with pytest.raises(ValueError, match=r"K.*fov_rad|fov_rad.*K"):
        make_trajectory("pan", 3, **SIZE, K=K, fov_rad=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "zoom"}, "orbit, dolly"),
        ({"frames": 0}, "frames"),
        ({"name": "pan", "distance": 1.0}, "'pan'.*distance"),
        ({"name": "truck", "angle_rad": 1.0}, "'truck'.*angle_rad.*orbit, pan"),
        ({"angle_rad": float("nan")}, "finite"),
        ({"amount": float("inf")}, "finite"),
        ({"focus_distance": 0.0}, "focus_distance"),
    ],
)
def test_wrong_requests(options, message):
    values = {"name": "orbit", "frames": 5, **SIZE, **options}
    with pytest.raises(ValueError, match=message):
        make_trajectory(**values)


def test_keyframes_are_hit_and_between_them_the_way_is_shortest(random_poses):
    keys = random_poses(3, seed=9)
    path = from_keyframes(keys, 9, **SIZE)
    np.testing.assert_allclose(path.pose_c2w[[0, 4, 8]], keys, atol=1e-12)
    step = rotation_angles(path.pose_c2w[:4, :3, :3].transpose(0, 2, 1) @ path.pose_c2w[1:5, :3, :3])
    whole = (Rotation.from_matrix(keys[0, :3, :3]).inv() * Rotation.from_matrix(keys[1, :3, :3])).magnitude()
    np.testing.assert_allclose(step, whole / 4)
    timed = from_keyframes(keys, 9, **SIZE, times=np.array([0.0, 1.0, 4.0]), fov_rad=1.0)
    np.testing.assert_allclose(timed.pose_c2w[2], keys[1], atol=1e-12)
    assert timed.fov_rad[0, 0] == pytest.approx(1.0)
    smooth = from_keyframes(keys, 9, **SIZE, easing="smooth")
    np.testing.assert_allclose(smooth.pose_c2w[[0, 4, 8]], keys, atol=1e-12)
    assert len(from_keyframes(keys[:1], 4, **SIZE)) == 4


def test_keyframes_refuse(random_poses):
    keys = random_poses(3)
    for change, message in (
        ({"frames": 0}, "frames"),
        ({"times": np.arange(2.0)}, "times"),
        ({"times": np.zeros(3)}, "times"),
        ({"poses": keys[:0]}, "poses"),
        ({"poses": keys * 2}, "expected"),
    ):
        with pytest.raises(ValueError, match=message):
            from_keyframes(**{"poses": keys, "frames": 4, **SIZE, **change})


def test_look_at():
    pose = look_at(np.array([3.0, 1.0, -2.0]), np.array([0.0, 0.0, 4.0]))
    target_c = np.linalg.inv(pose) @ (0.0, 0.0, 4.0, 1.0)
    np.testing.assert_allclose(target_c[:2], 0, atol=1e-12)
    assert target_c[2] > 0
    assert (np.linalg.inv(pose) @ (0, -1, 0, 0))[1] < 0  # up is up in the image
    np.testing.assert_allclose(look_at(np.zeros(3), np.array([0, 0, 1.0])), np.eye(4))
    with pytest.raises(ValueError, match="up"):
        look_at(np.zeros(3), np.array([0.0, -2.0, 0.0]))
    with pytest.raises(ValueError, match="target"):
        look_at(np.zeros(3), np.zeros(3))
