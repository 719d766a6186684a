"""SE(3), quaternions and the encoding, against scipy in float64, at every angle including 0 and pi; numpy and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation, Slerp

from fw_geometry import (
    decode_pose,
    encode_pose,
    interpolate_poses,
    interpolate_rigid,
    invert_poses,
    matrix_to_quaternion,
    nearest_rotations,
    orthonormalize,
    quaternion_to_matrix,
    quaternions_from_rotations,
    rotation_angle,
    rotation_angles,
    rotations_from_quaternions,
    rotations_from_vectors,
    se3_exp,
    se3_inverse,
    se3_log,
    slerp_quaternions,
)

ANGLES = st.one_of(
    st.sampled_from([0.0, 1e-12, 1e-7, 1e-5, 1e-4, 1.2e-4, np.pi / 2, np.pi - 1e-4, np.pi - 1e-9, np.pi]),
    st.floats(0.0, np.pi),
)
AXES = st.one_of(
    st.sampled_from([(1.0, 0, 0), (0, 1.0, 0), (0, 0, -1.0), (1.0, 1.0, 0)]),
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: np.linalg.norm(axis) > 0.1),
)


@st.composite
def rotation_vectors(draw):
    axis = np.array(draw(AXES))
    return axis / np.linalg.norm(axis) * draw(ANGLES)


@given(rotation_vectors())
def test_quaternions_agree_with_scipy(vector):
    matrix = Rotation.from_rotvec(vector).as_matrix()
    q = matrix_to_quaternion(torch.from_numpy(matrix)).numpy()
    assert q[3] >= 0
    np.testing.assert_allclose(np.linalg.norm(q), 1)
    np.testing.assert_allclose(Rotation.from_quat(q).as_matrix(), matrix, atol=1e-14)
    np.testing.assert_allclose(quaternions_from_rotations(matrix), q, atol=1e-15)
    np.testing.assert_allclose(quaternion_to_matrix(torch.from_numpy(q * 3)).numpy(), matrix, atol=1e-14)
    np.testing.assert_allclose(rotations_from_quaternions(q * -0.2), matrix, atol=1e-14)
    np.testing.assert_allclose(rotations_from_vectors(vector), matrix, atol=1e-14)


@given(rotation_vectors())
def test_angle_is_right_at_both_ends(vector):
    matrix = Rotation.from_rotvec(vector).as_matrix()
    angle = np.linalg.norm(vector)
    assert float(rotation_angle(torch.from_numpy(matrix))) == pytest.approx(angle, abs=1e-14)
    assert float(rotation_angles(matrix)) == pytest.approx(angle, abs=1e-14)


def test_angle_of_a_slightly_stretched_rotation_is_not_false():
    """1e-4 of stretch gives 0.8 degrees by arccos of the trace, and nothing here."""
    stretched = np.eye(3) * (1 - 1e-4)
    assert np.degrees(np.arccos((np.trace(stretched) - 1) / 2)) > 0.5
    assert rotation_angles(stretched) == 0


@given(rotation_vectors(), st.tuples(*[st.floats(-5, 5)] * 3))
def test_se3_exp_is_the_matrix_exponential_and_log_its_inverse(omega, v):
    twist = np.concatenate([v, omega])
    generator = np.zeros((4, 4))
    generator[:3, :3] = np.cross(np.eye(3), omega)
    generator[:3, 3] = v
    T = se3_exp(torch.from_numpy(twist))
    np.testing.assert_allclose(T.numpy(), expm(generator), atol=1e-12)
    back = se3_exp(se3_log(T))
    np.testing.assert_allclose(back.numpy(), T.numpy(), atol=1e-12)
    if np.linalg.norm(omega) < np.pi - 1e-3:
        np.testing.assert_allclose(se3_log(T).numpy(), twist, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-3, 1.0, 3.0])
def test_gradients_are_right_and_finite(angle):
    twist = torch.tensor([0.3, -0.2, 0.5, 0.6, 0.0, 0.8], dtype=torch.float64)
    twist[3:] *= angle
    twist.requires_grad_()
    for function in (se3_exp, lambda x: se3_log(se3_exp(x)), lambda x: matrix_to_quaternion(se3_exp(x)[:3, :3])):
        jacobian = torch.autograd.functional.jacobian(function, twist)
        step = 1e-6 * torch.eye(6, dtype=torch.float64)
        numeric = torch.stack([(function(twist + d) - function(twist - d)) / 2e-6 for d in step], dim=-1)
        np.testing.assert_allclose(jacobian.numpy(), numeric.detach().numpy(), atol=2e-8)
    (gradient,) = torch.autograd.grad(rotation_angle(se3_exp(twist)[:3, :3]), twist)
    assert torch.isfinite(gradient).all()


def test_quaternion_gradient_is_finite_at_half_turns():
    R = torch.diag(torch.tensor([1.0, -1.0, -1.0])).requires_grad_()
    matrix_to_quaternion(R).sum().backward()
    assert R.grad is not None
    assert torch.isfinite(R.grad).all()


def test_inverse_and_orthonormalize(random_poses):
    poses = random_poses(50)
    np.testing.assert_allclose(invert_poses(poses) @ poses, np.tile(np.eye(4), (50, 1, 1)), atol=1e-13)
    np.testing.assert_allclose(se3_inverse(torch.from_numpy(poses)).numpy(), np.linalg.inv(poses), atol=1e-13)
    noisy = poses[:, :3, :3] + np.random.default_rng(1).normal(size=(50, 3, 3)) * 0.05
    fixed = orthonormalize(torch.from_numpy(noisy)).numpy()
    np.testing.assert_allclose(fixed @ fixed.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(nearest_rotations(noisy), fixed, atol=1e-12)
    for wobble in Rotation.random(20, rng=np.random.default_rng(2)).as_rotvec() * 0.01:
        other = fixed @ Rotation.from_rotvec(wobble).as_matrix()
        assert (((noisy - fixed) ** 2).sum((1, 2)) < ((noisy - other) ** 2).sum((1, 2))).all()
    mirror = orthonormalize(torch.diag(torch.tensor([1.0, 1.0, -0.9], dtype=torch.float64)))
    assert float(torch.linalg.det(mirror)) == pytest.approx(1)


def test_encode_decode_round_trip(random_poses):
    w2c = torch.from_numpy(random_poses(40)).reshape(2, 20, 4, 4)
    K = torch.tensor([[300.0, 0, 296], [0, 310.0, 168], [0, 0, 1]], dtype=torch.float64).expand(2, 20, 3, 3)
    encoding = encode_pose(w2c, K, 336, 592)
    assert encoding.shape == (2, 20, 9)
    np.testing.assert_allclose(encoding[0, 0, 7:], [2 * np.arctan(168 / 310), 2 * np.arctan(296 / 300)])
    pose, intrinsics = decode_pose(encoding, 336, 592)
    np.testing.assert_allclose(pose, w2c, atol=1e-12, rtol=0)
    np.testing.assert_allclose(intrinsics, K, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(random_poses, dtype):
    w2c = torch.from_numpy(random_poses(3)).to(dtype)
    encoding = encode_pose(w2c, torch.eye(3, dtype=dtype).expand(3, 3, 3), 4, 4)
    pose, _ = decode_pose(encoding, 4, 4)
    assert {encoding.dtype, pose.dtype, se3_exp(se3_log(w2c)).dtype} == {dtype}
    np.testing.assert_allclose(se3_exp(se3_log(w2c)), w2c, atol=3e-5 if dtype == torch.float32 else 1e-12, rtol=0)


def test_interpolation_agrees_with_scipy_slerp_in_numpy_and_torch(random_poses):
    poses = random_poses(6, seed=5)
    times_in = np.array([0.0, 0.5, 2.0, 2.5, 4.0, 7.0])
    times_out = np.array([0.0, 0.1, 0.5, 1.7, 3.999, 7.0, 6.2])
    expected = Slerp(times_in, Rotation.from_matrix(poses[:, :3, :3]))(times_out).as_matrix()
    centers = np.stack([np.interp(times_out, times_in, poses[:, i, 3]) for i in range(3)], axis=-1)
    by_numpy = interpolate_rigid(poses, times_in, times_out)
    by_torch = interpolate_poses(*(torch.from_numpy(x) for x in (poses, times_in, times_out))).numpy()
    for result in (by_numpy, by_torch):
        np.testing.assert_allclose(result[:, :3, :3], expected, atol=1e-12)
        np.testing.assert_allclose(result[:, :3, 3], centers, atol=1e-12)
    np.testing.assert_allclose(interpolate_rigid(poses, times_in, np.array([-1.0, 9.0])), poses[[0, -1]], atol=1e-12)


def test_interpolation_of_one_pose_and_of_times_that_do_not_increase(random_poses):
    poses = random_poses(2)
    one = interpolate_poses(torch.from_numpy(poses[:1]), torch.zeros(1), torch.zeros(3))
    np.testing.assert_allclose(one.numpy(), np.repeat(poses[:1], 3, axis=0))
    with pytest.raises(ValueError, match="increas"):
        interpolate_rigid(poses, np.array([1.0, 1.0]), np.array([1.0]))
    with pytest.raises(ValueError, match="increas"):
        interpolate_poses(torch.from_numpy(poses), torch.tensor([1.0, 1.0]), torch.tensor([1.0]))


def test_slerp_takes_the_shorter_way():
    q = Rotation.from_euler("z", [[10.0], [50.0]], degrees=True).as_quat()
    half = slerp_quaternions(q[:1], -q[1:], np.array([0.5]))
    np.testing.assert_allclose(Rotation.from_quat(half[0]).magnitude(), np.radians(30))
