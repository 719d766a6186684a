"""Camera files of recent tools, written here by their documented conventions, come back as the cameras they are of."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fw_geometry.formats import CameraFileError, detect, read_trajectory
from fw_geometry.formats.tools import (
    read_camera_path,
    read_pose_arrays,
    read_pose_matrices,
    read_recammaster,
    read_spatialvid,
)
from fw_geometry.trajectories import DEFAULT_FOV_RAD, make_trajectory

CAMERAS = make_trajectory("orbit", 5, width=64, height=40)
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def same(found, poses=True):
    np.testing.assert_allclose(found.pose_c2w, CAMERAS.pose_c2w, atol=1e-6)
    np.testing.assert_allclose(found.K, CAMERAS.K, atol=1e-6)


def four(K):
    return np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)


@pytest.mark.parametrize("columns", [4, 9, 0])
def test_vggt_long(tmp_path, columns):
    np.savetxt(tmp_path / "camera_poses.txt", CAMERAS.pose_c2w.reshape(-1, 16))
    if columns:
        np.savetxt(tmp_path / "intrinsic.txt", four(CAMERAS.K) if columns == 4 else CAMERAS.K.reshape(-1, 9))
    assert detect(tmp_path / "camera_poses.txt") == "matrices"
    notes: list[str] = []
    found = read_trajectory(tmp_path / "camera_poses.txt", width=64, height=40, notes=notes)
    np.testing.assert_allclose(found.pose_c2w, CAMERAS.pose_c2w, atol=1e-9)
    if columns:
        same(found)
        assert not notes
    else:
        np.testing.assert_allclose(found.fov_rad[:, 0], DEFAULT_FOV_RAD)
        assert "field of view" in notes[0]
    (tmp_path / "intrinsic.txt").write_text("1 1 1 1\n" * 3)
    with pytest.raises(CameraFileError, match="3 for 5"):
        read_pose_matrices(tmp_path / "camera_poses.txt")


@pytest.mark.parametrize("plural", [True, False], ids=["depth-anything-3", "vggt"])
def test_npz_of_world_to_camera_poses(tmp_path, plural):
    s = "s" if plural else ""
    depth = np.ones((5, 40, 64) if plural else (1, 5, 40, 64, 1), np.float32)
    w2c = CAMERAS.pose_w2c[:, :3]
    arrays = {f"extrinsic{s}": w2c if plural else w2c[None], f"intrinsic{s}": CAMERAS.K, "depth": depth}
    np.savez(tmp_path / "results.npz", **arrays)
    found = read_pose_arrays(tmp_path / "results.npz")
    assert found.size == (64, 40)
    assert found.depth is not None
    assert found.depth.shape == (5, 40, 64)
    same(read_trajectory(tmp_path / "results.npz", width=64, height=40))
    np.savez(tmp_path / "other.npz", depth=depth)
    with pytest.raises(CameraFileError, match="extrinsics"):
        read_pose_arrays(tmp_path / "other.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(CameraFileError, match="npz"):
        read_pose_arrays(tmp_path / "bad.npz")


def test_vipe(tmp_path):
    for name in ("pose", "intrinsics"):
        (tmp_path / name).mkdir()
    index = np.array([0, 2, 3, 5, 9])
    np.savez(tmp_path / "pose" / "dog.npz", data=CAMERAS.pose_c2w, inds=index)
    every = np.repeat(four(CAMERAS.K)[:1], 10, axis=0)
    np.savez(tmp_path / "intrinsics" / "dog.npz", data=every, inds=np.arange(10))
    kinds = tmp_path / "intrinsics" / "dog_camera.txt"
    kinds.write_text("".join(f"{i}: PINHOLE\n" for i in range(10)))
    found = read_pose_arrays(tmp_path / "pose" / "dog.npz")
    np.testing.assert_array_equal(found.frame_index, index)
    assert found.units == "metric"
    same(read_trajectory(tmp_path / "pose" / "dog.npz", width=64, height=40))
    kinds.write_text("0: MEI\n")
    with pytest.raises(CameraFileError, match="MEI"):
        read_pose_arrays(tmp_path / "pose" / "dog.npz")


@pytest.mark.parametrize("normalized", [True, False])
def test_spatialvid(tmp_path, normalized):
    w2c = CAMERAS.pose_w2c
    quaternions = Rotation.from_matrix(w2c[:, :3, :3]).as_quat()
    np.save(tmp_path / "poses.npy", np.concatenate([w2c[:, :3, 3], quaternions], axis=-1).astype(np.float32))
    values = four(CAMERAS.K) / ((64, 40, 64, 40) if normalized else 1)
    np.save(tmp_path / "intrinsics.npy", values)
    same(read_trajectory(tmp_path / "poses.npy", width=64, height=40))
    np.save(tmp_path / "poses.npy", np.zeros((3, 6)))
    with pytest.raises(CameraFileError, match=r"\(3, 6\)"):
        read_spatialvid(tmp_path / "poses.npy", width=64, height=40)


def test_recammaster(tmp_path):
    # Unreal: x forward, y right, z up. The camera moves 10 cm forward, 20 cm right, 30 cm up, and turns right (yaw).
    yaw = np.deg2rad(30)
    axes = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])  # rows: axes in world
    rows = [[*axes[0], 0], [*axes[1], 0], [*axes[2], 0], [110, 220, 330, 1]]
    start = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [100, 200, 300, 1]]

    def text(matrix):
        return " ".join("[" + " ".join(str(float(x)) for x in row) + "]" for row in matrix) + " "

    path = tmp_path / "camera_extrinsics.json"
    still = text(start)
    path.write_text(
        json.dumps({"frame0": {"cam01": still, "cam02": still}, "frame1": {"cam01": text(rows), "cam02": still}})
    )
    notes: list[str] = []
    moved = read_trajectory(path, width=64, height=40, notes=notes).relative_to_first().pose_c2w[1]
    np.testing.assert_allclose(moved[:3, 3], (0.2, -0.3, 0.1), atol=1e-9)  # right, down, forward in meters
    np.testing.assert_allclose(moved[:3, 2], (np.sin(yaw), 0, np.cos(yaw)), atol=1e-9)  # looks to the right
    assert "cam01 of 2" in notes[0]
    assert "field of view" in notes[1]
    found, names = read_recammaster(path, camera="cam02")
    assert names == ["cam01", "cam02"]
    np.testing.assert_allclose(found.pose_c2w[1], found.pose_c2w[0])
    with pytest.raises(CameraFileError, match="cam02"):
        read_recammaster(path, camera="cam09")


def test_camera_path(tmp_path):
    fov = float(np.rad2deg(2 * np.arctan(20 / CAMERAS.K[0, 1, 1])))
    frames = [
        {"camera_to_world": (pose @ FLIP).ravel().tolist(), "fov": fov, "aspect": 1.6} for pose in CAMERAS.pose_c2w
    ]
    data = {"camera_type": "perspective", "render_width": 64, "render_height": 40, "fps": 24, "camera_path": frames}
    path = tmp_path / "camera_path.json"
    path.write_text(json.dumps(data))
    same(read_trajectory(path, width=64, height=40))
    np.testing.assert_allclose(read_trajectory(path, width=128, height=80).K[0, 0, 0], 2 * CAMERAS.K[0, 0, 0])
    path.write_text(json.dumps(data | {"camera_type": "equirectangular"}))
    with pytest.raises(CameraFileError, match="equirectangular"):
        read_camera_path(path)


def test_unknown_layouts_are_reported_with_the_known_ones(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"cams": []}))
    with pytest.raises(CameraFileError, match=r"transforms\.json.*ReCamMaster.*TUM.*SpatialVID.*COLMAP"):
        read_trajectory(tmp_path / "a.json", width=64, height=40)
    np.savez(tmp_path / "a.npz", depth_maps=np.zeros(3))
    with pytest.raises(CameraFileError, match=r"arrays depth_maps, expected extrinsics"):
        read_trajectory(tmp_path / "a.npz", width=64, height=40)
    with pytest.raises(CameraFileError, match=r"cameras\.bin.*COLMAP"):
        read_trajectory(tmp_path, width=64, height=40)
