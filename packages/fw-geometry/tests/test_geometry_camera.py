"""Camera and Trajectory: validation, and what each change does to the projection of a point."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fw_geometry
from fw_geometry import Camera, Trajectory, intrinsics_from_fov, make_trajectory


def pixels(cameras: Trajectory, points: np.ndarray) -> np.ndarray:
    """(f, n, 2) by the textbook 3x4 projection matrix."""
    P = cameras.K @ cameras.pose_w2c[:, :3]
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=-1)
    x = np.einsum("fij,nj->fni", P, homogeneous)
    return x[..., :2] / x[..., 2:]


POINTS = np.random.default_rng(0).normal(size=(6, 3))


def test_resize_and_crop_move_pixels_as_they_should(path):
    before = pixels(path, POINTS)
    np.testing.assert_allclose(pixels(path.resized(32, 80), POINTS), before * (0.5, 2.0))
    np.testing.assert_allclose(pixels(path.cropped(5, -3, 40, 50), POINTS), before - (5, -3))
    assert (path.resized(32, 80).width, path.cropped(5, -3, 40, 50).height) == (32, 50)


def test_centred_principal_point_stays_centered():
    cameras = make_trajectory("still", 2, width=64, height=40).resized(31, 17)
    np.testing.assert_allclose(cameras.K[:, :2, 2], [[15.5, 8.5]] * 2)


def test_relative_to_first_keeps_the_image(path):
    relative = path.relative_to_first()
    assert (relative.pose_c2w[0] == np.eye(4)).all()
    moved = POINTS @ path.pose_w2c[0, :3, :3].T + path.pose_w2c[0, :3, 3]
    np.testing.assert_allclose(pixels(relative, moved), pixels(path, POINTS), rtol=1e-9)


def test_scaled_scales_the_world(path):
    np.testing.assert_allclose(pixels(path.scaled(2.5), POINTS * 2.5), pixels(path, POINTS), rtol=1e-9)
    assert path.scaled(2.5).path_length() == pytest.approx(2.5 * path.path_length())


def test_slice_index_and_iteration(path):
    part = path.slice(1, None, 2)
    assert len(part) == 2
    assert (part[1].pose_c2w == path[3].pose_c2w).all()
    assert [camera.K[0, 0] for camera in part] == [path.K[1, 0, 0], path.K[3, 0, 0]]
    np.testing.assert_allclose(path[2].pose_w2c @ path[2].pose_c2w, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(path[2].center_world, path.centers_world[2])
    with pytest.raises(ValueError, match=r"empty|frames"):
        path.slice(4, 2)


def test_fov_is_vertical_then_horizontal():
    cameras = make_trajectory("still", 3, width=80, height=40, fov_rad=np.pi / 2)
    assert cameras.K[0, 0, 0] == pytest.approx(20)
    np.testing.assert_allclose(cameras.fov_rad, [[np.pi / 2, 2 * np.arctan(2)]] * 3)
    assert cameras[0].fov_rad == pytest.approx((np.pi / 2, 2 * np.arctan(2)))


@given(fov=st.floats(0.05, 3.0), width=st.integers(1, 2000), height=st.integers(1, 2000))
def test_intrinsics_from_fov_see_the_border_at_half_the_angle(fov, width, height):
    K = intrinsics_from_fov(fov, width, height)
    top = np.linalg.inv(K) @ (width / 2, 0.0, 1.0)
    assert np.arctan2(-top[1], top[2]) == pytest.approx(fov / 2)
    assert K[0, 0] == K[1, 1]


def test_resampled_keeps_ends_and_doubles_exactly(path):
    np.testing.assert_allclose(path.resampled(5).pose_c2w, path.pose_c2w, atol=1e-12)
    fine = path.resampled(9)
    np.testing.assert_allclose(fine.pose_c2w[::2], path.pose_c2w, atol=1e-12)
    np.testing.assert_allclose(fine.K[1], (path.K[0] + path.K[1]) / 2)
    np.testing.assert_allclose(fine.centers_world[1], (path.centers_world[0] + path.centers_world[1]) / 2)
    assert len(path.resampled(1)) == 1
    assert len(path.slice(0, 1).resampled(4)) == 4
    with pytest.raises(ValueError, match="0"):
        path.resampled(0)


def test_construction_copies(path):
    poses = path.pose_c2w.copy()
    cameras = Trajectory(pose_c2w=poses, K=path.K, width=64, height=40)
    poses[:] = 0
    assert (cameras.pose_c2w == path.pose_c2w).all()
    assert Camera(K=path.K[0].astype(np.float32), pose_c2w=np.eye(4), width=1, height=1).K.dtype == np.float64


def broken(path, **changes):
    values = {"pose_c2w": path.pose_c2w.copy(), "K": path.K.copy(), "width": 64, "height": 40}
    for key, change in changes.items():
        values[key] = change(values[key])
    return Trajectory(**values)


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose_c2w": lambda p: p[:, :3]}, r"\(5, 3, 4\).*\(f, 4, 4\)"),
        ({"pose_c2w": put((2, 0, 3), np.nan)}, r"\(2, 0, 3\).*nan"),
        ({"pose_c2w": lambda p: p * (1, 1, 1.01, 1)}, "orthonormalize"),
        ({"pose_c2w": lambda p: p * (1, 1, -1, 1)}, "mirror|determinant"),
        ({"pose_c2w": lambda p: p.transpose(0, 2, 1)}, "transposed"),
        ({"pose_c2w": lambda p: p[:0], "K": lambda K: K[:0]}, "frame"),
        ({"K": lambda K: K[:3]}, "5 .*3"),
        ({"K": lambda K: K[0]}, r"\(3, 3\).*\(f, 3, 3\)"),
        ({"K": put((1, 1, 1), -4.0)}, "frame 1"),
        ({"K": put((3, 0, 1), 2.0)}, "frame 3.*skew"),
        ({"width": lambda _: 0}, "0 ?x ?40"),
    ],
)
def test_bad_trajectories_say_what_to_do(path, changes, message):
    with pytest.raises(ValueError, match=message):
        broken(path, **changes)


def test_bad_scale_and_fov(path):
    with pytest.raises(ValueError, match="0"):
        path.scaled(0)
    with pytest.raises(ValueError, match="pi"):
        intrinsics_from_fov(np.pi, 4, 4)


def test_every_public_name_is_there():
    assert set(fw_geometry.__all__) <= set(dir(fw_geometry))
    for name in fw_geometry.__all__:
        assert getattr(fw_geometry, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fw_geometry.nonsense  # pyright: ignore[reportAttributeAccessIssue]


def test_numpy_parts_import_no_torch():
    code = (
        "import sys; from fw_geometry import make_trajectory, read_colmap, umeyama, ate, Trajectory;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
