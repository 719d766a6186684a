"""Text and JSON camera files: hand-written samples with known answers, round trips, and what bad files say."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from fw_geometry import (
    CameraFileError,
    Trajectory,
    make_trajectory,
    read_camera_json,
    read_kitti,
    read_realestate10k,
    read_transforms_json,
    read_tum,
    write_camera_json,
    write_kitti,
    write_realestate10k,
    write_transforms_json,
    write_tum,
)

IDENTITY_ROW = "1 0 0 {} 0 1 0 {} 0 0 1 {}"
RE10K = f"https://example.org/v\n1000 0.5 0.8 0.5 0.25 0 0 {IDENTITY_ROW.format(1, 2, 3)}\n"


@pytest.fixture
def centered():
    return make_trajectory("spiral", 6, width=64, height=40)


def assert_same(a: Trajectory, b: Trajectory, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(a.pose_c2w, b.pose_c2w, atol=atol)
    np.testing.assert_allclose(a.K, b.K, atol=1e-10)
    assert (a.width, a.height) == (b.width, b.height)


def test_realestate10k_sample(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(RE10K)
    clip = read_realestate10k(file, width=100, height=60, units="metric")
    assert clip.source == "https://example.org/v"
    assert clip.timestamps_us.tolist() == [1000]
    np.testing.assert_allclose(clip.trajectory.K[0], [[50, 0, 50], [0, 48, 15], [0, 0, 1]])
    np.testing.assert_allclose(clip.trajectory.centers_world, [[-1, -2, -3]])  # the file is world-to-camera
    assert clip.trajectory.units == "metric"
    file.write_text(RE10K.split("\n", 1)[1] + "\n")
    assert read_realestate10k(file, width=100, height=60).source == ""


def test_realestate10k_round_trip(tmp_path, path):
    file = tmp_path / "a.txt"
    stamps = np.array([5, 10, 33_366_667, 40, 2**40])
    write_realestate10k(file, path, timestamps_us=stamps, source="clip 7")
    clip = read_realestate10k(file, width=64, height=40)
    assert_same(clip.trajectory, path)
    assert (clip.timestamps_us == stamps).all()
    assert clip.source == "clip 7"
    assert all(len(line.split()) == 19 for line in file.read_text().splitlines()[1:])
    write_realestate10k(file, path)
    assert read_realestate10k(file, width=64, height=40).timestamps_us.tolist() == [0, 1, 2, 3, 4]


ROW = RE10K.splitlines()[1]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["line 1", "empty", "write the file again"]),
        ("header only\n", ["line 2", "no frames"]),
        ("h\n" + ROW + " 7\n", ["line 2", "20 columns, expected 19", "check the format"]),
        ("h\n" + ROW + "\n\n" + ROW.replace("0.8", "nan"), ["line 4", "column 3 is 'nan'", "finite"]),
        ("h\n" + ROW.replace("0.8", "x.8"), ["line 2", "column 3 is 'x.8'", "expected a number"]),
        ("h\n" + ROW.replace("0.5 0.8", "525 525"), ["line 2", "525.0", "divide fx, cx by the width"]),
        ("h\n" + ROW.replace("0.25 0 0", "0.25 0.1 0"), ["line 2", "distortion", "undistort"]),
        ("h\n" + ROW.replace("1 0 0 1", "1.1 0 0 1"), ["line 2", "rotation is off by 0.21", "orthonormal"]),
        ("h\n" + ROW.replace("1 0 0 1", "-1 0 0 1"), ["line 2", "mirrors space", "flip"]),
        ("h\n" + ROW.replace("1000 ", "1.5 "), ["line 2", "no whole number"]),
    ],
)
def test_bad_realestate10k_names_file_line_wanted_and_remedy(tmp_path, text, parts):
    file = tmp_path / "bad.txt"
    file.write_text(text)
    with pytest.raises(CameraFileError) as caught:
        read_realestate10k(file, width=100, height=60)
    assert all(part in str(caught.value) for part in ["bad.txt", *parts])


def test_bad_realestate10k_writes(tmp_path, path):
    with pytest.raises(ValueError, match="5"):
        write_realestate10k(tmp_path / "a", path, timestamps_us=np.arange(4))
    for source in ("", "two\nlines", "3 blind mice"):
        with pytest.raises(ValueError, match="source"):
            write_realestate10k(tmp_path / "a", path, source=source)


def test_tum_sample_and_round_trip(tmp_path, random_poses):
    file = tmp_path / "a.txt"
    half = 0.5**0.5
    file.write_text(f"# ground truth\n1.5 1 2 3 0 0 {half} {half}\n")
    time_s, poses = read_tum(file)
    assert time_s.tolist() == [1.5]
    np.testing.assert_allclose(poses[0], [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]], atol=1e-12)
    poses = random_poses(20)
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 1, 20))
    write_tum(file, poses, times)
    np.testing.assert_allclose(read_tum(file).pose_c2w, poses, atol=1e-12)
    assert (read_tum(file).time_s == times).all()
    write_tum(file, poses)
    assert read_tum(file).time_s[-1] == 19


def test_kitti_sample_and_round_trip(tmp_path, random_poses):
    file = tmp_path / "a.txt"
    file.write_text(IDENTITY_ROW.format(1, 2, 3) + "\n")
    np.testing.assert_allclose(read_kitti(file)[0, :3, 3], [1, 2, 3])  # the file is camera-to-world
    poses = random_poses(20)
    write_kitti(file, poses)
    np.testing.assert_allclose(read_kitti(file), poses, atol=1e-12)


@pytest.mark.parametrize(
    ("reader", "text", "parts"),
    [
        (read_tum, "", ["line 1", "empty"]),
        (read_tum, "# only this\n", ["only comments"]),
        (read_tum, "0 0 0 0 0 0 1\n", ["line 1", "7 columns, expected 8", "qx qy qz qw"]),
        (read_tum, "0 0 0 0 0 0 0 2\n", ["line 1", "length 2", "another order"]),
        (read_tum, "# x\n1 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n", ["line 3", "does not increase", "sort"]),
        (read_kitti, IDENTITY_ROW.format(0, 0, "inf"), ["line 1", "column 12", "finite"]),
        (read_kitti, IDENTITY_ROW.format(0, 0, 0).replace("1 0 0", "1 1 0"), ["line 1", "orthonormal"]),
    ],
)
def test_bad_pose_text(tmp_path, reader, text, parts):
    file = tmp_path / "bad.txt"
    file.write_text(text)
    with pytest.raises(CameraFileError) as caught:
        reader(file)
    assert all(part in str(caught.value) for part in ["bad.txt", *parts])


def test_binary_where_text_is_expected(tmp_path):
    file = tmp_path / "bad.txt"
    file.write_bytes(b"\x89\xfe\x00\x01")
    with pytest.raises(CameraFileError, match="UTF-8"):
        read_kitti(file)
    with pytest.raises(FileNotFoundError):
        read_kitti(tmp_path / "missing.txt")


def test_bad_pose_writes(tmp_path, random_poses):
    with pytest.raises(ValueError, match=r"seconds|timestamps|times_s"):
        write_tum(tmp_path / "a", random_poses(3), np.zeros(3))
    with pytest.raises(ValueError, match="rotation"):
        write_kitti(tmp_path / "a", random_poses(3) * (2, 2, 2, 1))


def test_errors_survive_a_process_border():
    error = pickle.loads(pickle.dumps(CameraFileError(Path("f"), "line 1", "bad", "fix it")))
    assert str(error) == "f, line 1: bad; fix it"


def test_released_json_sample(tmp_path):
    file = tmp_path / "camera.json"
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 2, 3] = [0, 0.5, 1]
    data = {"focal_length": 500, "scale": 1, "cameras": [], "cameras_interp": poses.tolist()}
    file.write_text(json.dumps(data))
    cameras = read_camera_json(file, width=592, height=336)
    np.testing.assert_allclose(cameras.K, [[[500, 0, 296], [0, 500, 168], [0, 0, 1]]] * 3)
    np.testing.assert_allclose(cameras.centers_world[-1], [0, 0, 1])
    assert len(read_camera_json(file, width=592, height=336, frames=2)) == 2
    with pytest.raises(CameraFileError, match=r"3 .*4"):
        read_camera_json(file, width=592, height=336, frames=4)


def test_released_json_round_trip(tmp_path, centered, path):
    file = tmp_path / "camera.json"
    write_camera_json(file, centered)
    assert_same(read_camera_json(file, width=64, height=40), centered)
    data = json.loads(file.read_text())
    assert set(data) == {"focal_length", "scale", "cameras", "cameras_interp"}
    assert data["cameras"] == [data["cameras_interp"][0], data["cameras_interp"][-1]]
    with pytest.raises(ValueError, match="focal"):
        write_camera_json(file, path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{", ["line 1", "not JSON"]),
        ("[]", ["a JSON list"]),
        ("{}", ["'focal_length' is None"]),
        ('{"focal_length": -1}', ["'focal_length' is -1.0", "above zero"]),
        ('{"focal_length": NaN}', ["finite"]),
        ('{"focal_length": 5}', ["'cameras_interp' is missing"]),
        ('{"focal_length": 5, "cameras_interp": 3}', ["'cameras_interp' is a int"]),
        ('{"focal_length": 5, "cameras_interp": [[1, 2]]}', ["cameras_interp[0]", "shape (2,)"]),
        ('{"focal_length": 5, "cameras_interp": ["x"]}', ["cameras_interp[0]", "not a matrix"]),
    ],
)
def test_bad_released_json(tmp_path, text, parts):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(CameraFileError) as caught:
        read_camera_json(file, width=8, height=8)
    assert all(part in str(caught.value) for part in ["bad.json", *parts])


def nerfstudio(tmp_path, frame=None, **top):
    matrix = np.eye(4).tolist()
    frames = [{"file_path": "a.png", "transform_matrix": matrix} | (frame or {})]
    file = tmp_path / "transforms.json"
    file.write_text(json.dumps({"w": 64, "h": 40, "fl_x": 50, "frames": frames} | top))
    return file


def test_nerfstudio_axes(tmp_path):
    """Identity in OpenGL axes looks along -z with y up: in OpenCV axes forward is -z and down is -y."""
    scene = read_transforms_json(nerfstudio(tmp_path))
    np.testing.assert_allclose(scene.trajectory.pose_c2w[0], np.diag([1, -1, -1, 1]))
    np.testing.assert_allclose(scene.trajectory.K[0], [[50, 0, 32], [0, 50, 20], [0, 0, 1]])
    assert scene.file_paths == ("a.png",)


def test_nerfstudio_blender_style_and_frame_overrides(tmp_path):
    file = tmp_path / "t.json"
    frame = {"file_path": "r_0", "transform_matrix": np.eye(4).tolist()}
    file.write_text(json.dumps({"camera_angle_x": np.pi / 2, "frames": [frame, frame | {"fl_x": 7, "fl_y": 9}]}))
    K = read_transforms_json(file, width=64, height=40).trajectory.K
    np.testing.assert_allclose([K[0, 0, 0], K[0, 1, 1], K[1, 0, 0], K[1, 1, 1]], [32, 32, 7, 9])
    with pytest.raises(CameraFileError, match="w"):
        read_transforms_json(file)


def test_nerfstudio_round_trip(tmp_path, path, centered):
    file = tmp_path / "transforms.json"
    for cameras in (path, centered):
        write_transforms_json(file, cameras)
        assert_same(read_transforms_json(file).trajectory, cameras)
    assert "fl_x" in json.loads(file.read_text())  # constant K stands at the top
    names = [f"{i}.jpg" for i in range(6)]
    write_transforms_json(file, centered, file_paths=names)
    assert read_transforms_json(file).file_paths == tuple(names)
    with pytest.raises(ValueError, match=r"2.*6"):
        write_transforms_json(file, centered, file_paths=names[:2])


@pytest.mark.parametrize(
    ("frame", "top", "parts"),
    [
        ({}, {"k1": 0.1}, ["distortion", "0.1", "undistort"]),
        ({}, {"camera_model": "EQUIRECTANGULAR"}, ["'EQUIRECTANGULAR'", "PINHOLE"]),
        ({}, {"w": 64.5}, ["whole pixels"]),
        ({}, {"fl_x": 0}, ["above zero"]),
        ({}, {"frames": []}, ["'frames' is missing or empty"]),
        ({}, {"frames": [3]}, ["frames[0]", "transform_matrix"]),
        ({"transform_matrix": [[float("nan")] * 4] * 4}, {}, ["frames[0]", "NaN or infinite", "drop this frame"]),
        ({}, {"fl_x": None}, ["'fl_x' is None"]),
        ({"file_path": None}, {}, ["frames[0]", "name the image"]),
        ({"transform_matrix": (np.eye(4) * 2).tolist()}, {}, ["frames[0]", "last row"]),
        ({"transform_matrix": np.diag([1.0, 1, 2, 1]).tolist()}, {}, ["frames[0]", "orthonormal"]),
    ],
)
def test_bad_nerfstudio(tmp_path, frame, top, parts):
    file = nerfstudio(tmp_path, frame, **top)
    with pytest.raises(CameraFileError) as caught:
        read_transforms_json(file)
    assert all(part in str(caught.value) for part in ["transforms.json", *parts])


def test_nerfstudio_sizes_must_agree(tmp_path):
    matrix = np.eye(4).tolist()
    frames = [{"file_path": "a", "transform_matrix": matrix}, {"file_path": "b", "transform_matrix": matrix, "w": 8}]
    with pytest.raises(CameraFileError, match=r"frames\[1\]"):
        read_transforms_json(nerfstudio(tmp_path, frames=frames))
