"""Every field of a transforms.json is used or refused; K of another image size; headers and byte order marks."""

import json

import numpy as np
import pytest

from fw_geometry.formats import CameraFileError, read_realestate10k, read_transforms_json, read_tum
from fw_geometry.formats.plausible import foreign_size
from fw_geometry.lenses import Lens, pinhole_view

ROW = "{} 0.9 1.2 0.5 0.5 0 0 1 0 0 {} 0 1 0 0 0 0 1 0"


def scene(folder, *, encoding="utf-8", frame=None, **top):
    fields = {"w": 64, "h": 48} | top
    fields["frames"] = [{"file_path": "a.png", "transform_matrix": np.eye(4).tolist()} | (frame or {})]
    path = folder / "transforms.json"
    path.write_text(json.dumps(fields), encoding=encoding)
    return path


def angle(focal, size):
    return 2 * np.arctan(size / 2 / focal)


@pytest.mark.parametrize(
    ("top", "focal"),
    [
        ({"camera_angle_x": angle(60, 64), "camera_angle_y": angle(80, 48)}, (60, 80)),
        ({"camera_angle_x": angle(60, 64)}, (60, 60)),
        ({"camera_angle_y": angle(80, 48)}, (80, 80)),
        ({"fl_y": 70}, (70, 70)),
        ({"fl_x": 60, "camera_angle_y": angle(80, 48)}, (60, 80)),
        ({"fl_x": 60, "fl_y": 80, "camera_angle_x": angle(60, 64), "camera_angle_y": angle(80, 48)}, (60, 80)),
    ],
)
def test_focal_lengths(tmp_path, top, focal):
    K = read_transforms_json(scene(tmp_path, **top)).trajectory.K[0]
    np.testing.assert_allclose((K[0, 0], K[1, 1]), focal)


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"fl_x": 60, "camera_angle_x": angle(90, 64)}, "fl_x.*camera_angle_x.*contradict"),
        ({"fl_x": 60, "fl_y": 60, "camera_angle_y": angle(90, 48)}, "camera_angle_y"),
        ({"fl_x": 60, "camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"fl_x": 60, "camera_model": "PINHOLE", "is_fisheye": True}, "is_fisheye"),
        ({"fl_x": 60, "k4": 0.1}, "k4"),
        ({"fl_x": 60, "is_fisheye": True, "p1": 0.1}, "p1"),
        ({"fl_x": 60, "rolling_shutter": [0, 0, 0.1, 0]}, "rolling_shutter"),
        ({"fl_x": 60, "camera_angle_y": 4.0}, "camera_angle_y.*4.0"),
        ({}, "fl_x"),
    ],
)
def test_refused_fields(tmp_path, top, message):
    with pytest.raises(CameraFileError, match=message):
        read_transforms_json(scene(tmp_path, **top), undistort=True)


def test_images_of_two_sizes_are_refused_with_number_and_name(tmp_path):
    pose = np.eye(4).tolist()
    upright = {"file_path": "tall.png", "transform_matrix": pose, "w": 48, "h": 64}
    path = scene(tmp_path, fl_x=60)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"frames": [*content["frames"], upright]}))
    with pytest.raises(ValueError, match=r"frames\[1\] \(tall\.png\): size \(48, 64\)"):
        read_transforms_json(path)


def test_lenses(tmp_path):
    opencv = {"fl_x": 60, "fl_y": 61, "cx": 33, "cy": 23, "k1": 0.02, "k2": -0.01, "p1": 0.001}
    with pytest.raises(CameraFileError, match=r"0\.02.*fw-data import"):
        read_transforms_json(scene(tmp_path, **opencv))
    found = read_transforms_json(scene(tmp_path, **opencv), undistort=True)
    lens = Lens(fx=60, fy=61, cx=33, cy=23, radial=(0.02, -0.01), tangential=(0.001, 0))
    assert found.lenses == (lens,)
    np.testing.assert_array_equal(found.trajectory.K[0], pinhole_view(lens, 64, 48).K)
    flags: list[dict] = [{"is_fisheye": True}, {"camera_model": "OPENCV_FISHEYE"}]
    for flag in flags:
        found = read_transforms_json(scene(tmp_path, fl_x=60, k1=0.02, **flag), undistort=True)
        assert found.lenses == (Lens(kind="fisheye", fx=60, fy=60, cx=32, cy=24, radial=(0.02,)),)
    assert not read_transforms_json(scene(tmp_path, fl_x=60, camera_model="OPENCV", k1=0, k4=0)).lenses


def test_windows_paths_marks_and_unused_fields(tmp_path):
    frame = {"file_path": ".\\images\\a.png", "exposure": 3}
    assert read_transforms_json(scene(tmp_path, encoding="utf-16", fl_x=60)).trajectory.K[0, 0, 0] == 60
    found = read_transforms_json(scene(tmp_path, encoding="utf-8-sig", fl_x=60, aabb_scale=4, lens="x", frame=frame))
    assert found.file_paths == ("images/a.png",)
    assert found.unused == ("exposure", "lens")


@pytest.mark.parametrize("header", ["", "https://x\n", "000123\n", "clip 7 of 9\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_realestate10k_header_is_optional(tmp_path, header, encoding):
    path = tmp_path / "clip.txt"
    text = header + "".join(ROW.format(i, -i / 10) + "\r\n" for i in range(8))
    path.write_text(text, encoding=encoding, newline="")
    clip = read_realestate10k(path, width=64, height=48)
    np.testing.assert_allclose(clip.trajectory.centers_world[:, 0], np.arange(8) / 10)
    assert clip.source == header.strip()
    path.write_text(ROW.format(0, 0) + "\n" + ROW.format(1, 0).rpartition(" ")[0])
    with pytest.raises(CameraFileError, match=r"line 2.*18"):
        read_realestate10k(path, width=64, height=48)


def test_byte_order_mark_in_tum(tmp_path):
    (tmp_path / "path.txt").write_text("0 1 2 3 0 0 0 1\r\n1 1 2 3 0 0 0 1\r\n", encoding="utf-8-sig", newline="")
    assert len(read_tum(tmp_path / "path.txt").time_s) == 2


@pytest.mark.parametrize(
    ("center", "message"),
    [
        ((320, 240), None),
        ((300, 260), None),
        ((80, 60), "160x120, 0.25 times"),
        ((640, 480), "1280x960, 2 times"),
        ((259, 196), "518x392, 0.81"),
        ((60, 240), "far from the center"),
        ((0.5, 0.5), "divided by the image size"),
    ],
)
def test_intrinsics_of_another_size(center, message):
    K = np.array([[[500, 0, center[0]], [0, 500, center[1]], [0, 0, 1.0]]])
    found = foreign_size(K, 640, 480)
    assert (found is None) if message is None else (found is not None and message in found)
