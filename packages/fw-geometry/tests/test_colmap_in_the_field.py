"""COLMAP models as people have them: hand-made text, distorted lenses, rigs, files from Windows."""

import numpy as np
import pycolmap
import pytest

from fw_geometry.formats import CameraFileError, read_colmap, read_colmap_rig, write_colmap
from fw_geometry.formats.names import frame_numbers, natural_key, portable_path
from fw_geometry.lenses import Lens, pinhole_view
from fw_geometry.trajectories import make_trajectory

PINHOLE = "1 PINHOLE 64 40 50 50 32 20"


def model(folder, cameras, images, encoding="utf-8", newline="\n"):
    folder.mkdir(exist_ok=True)
    (folder / "cameras.txt").write_text(newline.join(cameras) + newline, encoding=encoding, newline="")
    (folder / "images.txt").write_text(newline.join(images) + newline, encoding=encoding, newline="")
    return folder


def image(i, name, camera=1):
    return f"{i} 1 0 0 0 {-i / 10} 0 0 {camera} {name}"


@pytest.mark.parametrize("between", [[], [""], ["1.5 2.5 -1 3 4 7"]], ids=["none", "blank", "points"])
def test_images_with_and_without_point_lines(tmp_path, between):
    lines = [line for i in range(12) for line in (image(i, f"frame_{i:05d}.png"), *between)]
    found = read_colmap(model(tmp_path, [PINHOLE], lines))
    assert found.names == tuple(f"frame_{i:05d}.png" for i in range(12))
    np.testing.assert_allclose(found.trajectory.centers_world[:, 0], np.arange(12) / 10)


def test_files_from_windows(tmp_path):
    lines = [image(i, rf"images\{i}.png") for i in range(3)]
    found = read_colmap(model(tmp_path, [PINHOLE], lines, encoding="utf-8-sig", newline="\r\n"))
    assert found.names == ("images/0.png", "images/1.png", "images/2.png")


def test_natural_order(tmp_path):
    found = read_colmap(model(tmp_path, [PINHOLE], [image(i, f"{i}.png") for i in (1, 10, 11, 2, 3)]))
    assert found.names == ("1.png", "2.png", "3.png", "10.png", "11.png")
    np.testing.assert_allclose(found.trajectory.centers_world[:, 0], [0.1, 0.2, 0.3, 1.0, 1.1])


def test_cameras_that_no_image_uses_do_not_matter(tmp_path):
    cameras = [PINHOLE, "2 FOV 64 40 50 50 32 20 0.9", "3 SOMETHING 64 40 1", "4 OPENCV 64 40 50 50 32 20 1 1 1 1"]
    assert len(read_colmap(model(tmp_path, cameras, [image(1, "a.png")])).names) == 1
    with pytest.raises(CameraFileError, match=r"camera 2.*FOV"):
        read_colmap(model(tmp_path, cameras, [image(1, "a.png", camera=2)]))
    peer = pycolmap.Reconstruction()
    for number, kind in enumerate(["PINHOLE", "FOV", "THIN_PRISM_FISHEYE"], start=1):
        peer.add_camera_with_trivial_rig(pycolmap.Camera.create_from_model_name(number, kind, 50.0, 64, 40))
    pose = pycolmap.Rigid3d()
    peer.add_image_with_trivial_frame(pycolmap.Image(name="a.png", camera_id=1, image_id=1), pose)
    (tmp_path / "binary").mkdir()
    peer.write_binary(str(tmp_path / "binary"))
    assert read_colmap(tmp_path / "binary").names == ("a.png",)


def test_zero_distortion_is_a_pinhole(tmp_path):
    for kind, zeros in (("FULL_OPENCV", 8), ("OPENCV", 4)):
        camera = " ".join(["1", kind, "64 40 50 51 32 20", *["0"] * zeros])
        found = read_colmap(model(tmp_path, [camera], [image(1, "a.png")]))
        assert found.lenses == ()
        np.testing.assert_array_equal(found.trajectory.K[0], [[50, 0, 32], [0, 51, 20], [0, 0, 1]])


def test_distortion_is_refused_or_undone(tmp_path):
    folder = model(tmp_path, ["1 SIMPLE_RADIAL 64 40 50 32 20 -0.1"], [image(1, "a.png"), image(2, "b.png")])
    with pytest.raises(CameraFileError, match=r"SIMPLE_RADIAL.*-0\.1.*fw-data import"):
        read_colmap(folder)
    found = read_colmap(folder, undistort=True)
    lens = Lens(fx=50, fy=50, cx=32, cy=20, radial=(-0.1,))
    assert found.lenses == (lens, lens)
    np.testing.assert_array_equal(found.trajectory.K[1], pinhole_view(lens, 64, 40).K)


def test_rig_is_one_path_per_camera(tmp_path):
    cameras = [PINHOLE, "2 PINHOLE 40 64 50 50 20 32"]
    by_folder = [image(i, f"cam{1 + i % 2}/{i // 2}.png", camera=1 + i % 2) for i in range(8)]
    found = read_colmap_rig(model(tmp_path, cameras, by_folder))
    assert {key: len(path.names) for key, path in found.items()} == {"cam1": 4, "cam2": 4}
    assert found["cam2"].trajectory.width == 40
    np.testing.assert_allclose(found["cam2"].trajectory.centers_world[:, 0], [0.1, 0.3, 0.5, 0.7])
    flat = [image(i, f"{i}.png", camera=1 + i % 2) for i in range(8)]
    assert sorted(read_colmap_rig(model(tmp_path, cameras, flat))) == ["camera 1", "camera 2"]
    own = [f"{i} PINHOLE 64 40 {50 + i} 50 32 20" for i in range(4)]  # every image has a camera: one path
    found = read_colmap_rig(model(tmp_path, own, [image(i, f"{i}.png", camera=i) for i in range(4)]))
    np.testing.assert_array_equal(found[""].trajectory.K[:, 0, 0], [50, 51, 52, 53])


@pytest.mark.parametrize("binary", [True, False])
def test_tracks_are_read_by_pycolmap(tmp_path, binary):
    cameras = make_trajectory("truck", 3, width=64, height=40)
    points = np.array([[0.0, 0.0, 2.0], [0.1, 0.05, 2.5]])
    pixels = {}
    for frame, camera in enumerate(cameras):
        seen = (camera.K @ (camera.pose_w2c[:3, :3] @ points.T + camera.pose_w2c[:3, 3:])).T
        pixels[frame] = seen[:, :2] / seen[:, 2:]
    observations = [(point, frame, pixels[frame][point]) for point in range(2) for frame in range(point, 3)]
    write_colmap(tmp_path, cameras, points_world=points, observations=observations, binary=binary)
    peer = pycolmap.Reconstruction(str(tmp_path))
    assert sorted(point.track.length() for point in peer.points3D.values()) == [2, 3]
    peer.update_point_3d_errors()
    assert max(point.error for point in peer.points3D.values()) < 1e-9
    assert peer.images[1].num_points3D == 1
    assert len(read_colmap(tmp_path).points_world) == 2
    with pytest.raises(ValueError, match="observation"):
        write_colmap(tmp_path, cameras, points_world=points, observations=[(2, 0, (1.0, 1.0))])


def test_names():
    assert sorted(["a10", "a9", "b1"], key=natural_key) == ["a9", "a10", "b1"]
    assert portable_path(".\\images\\a.png") == portable_path("./images/a.png") == "images/a.png"
    np.testing.assert_array_equal(frame_numbers(["f_1.png", "f_3.png", "f_12.png"]), [1, 3, 12])
    np.testing.assert_array_equal(frame_numbers(["take2_0001.jpg", "take2_0002.jpg"]), [1, 2])
    for names in (["a.png"], ["a.png", "b.png"], ["1_1.png", "2_2.png"], ["3.png", "1.png"], ["a1.png", "b2.png"]):
        assert frame_numbers(names) is None
