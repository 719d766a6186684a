"""COLMAP models: pycolmap reads ours, we read pycolmap's, text and binary say the same, and cut files are refused."""

import struct

import numpy as np
import pycolmap
import pytest

from fw_geometry import CameraFileError, make_trajectory, read_colmap, write_colmap

BINARY = pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
POINTS = np.random.default_rng(0).normal(size=(7, 3))
COLORS = np.random.default_rng(1).integers(0, 256, (7, 3), dtype=np.uint8)


@BINARY
def test_round_trip(tmp_path, path, binary):
    names = ["b.png", "a c.png", "é.png", "d/e.png", "c.png"]
    write_colmap(tmp_path / "m", path, names=names, points_world=POINTS, colors=COLORS, binary=binary)
    model = read_colmap(tmp_path / "m")
    assert model.names == tuple(sorted(names))
    order = np.argsort(names)
    np.testing.assert_allclose(model.trajectory.pose_c2w, path.pose_c2w[order], atol=1e-12)
    np.testing.assert_allclose(model.trajectory.K, path.K[order])
    np.testing.assert_allclose(model.points_world, POINTS)
    assert (model.colors == COLORS).all()
    assert (model.trajectory.width, model.trajectory.height) == (64, 40)


@BINARY
def test_pycolmap_reads_ours(tmp_path, path, binary):
    write_colmap(tmp_path, path, points_world=POINTS, colors=COLORS, binary=binary)
    peer = pycolmap.Reconstruction(str(tmp_path))
    assert peer.num_reg_images() == 5
    for i in range(5):
        image = peer.images[i + 1]
        assert image.name == f"frame_{i + 1:05d}.png"
        np.testing.assert_allclose(image.cam_from_world().matrix(), path.pose_w2c[i, :3], atol=1e-12)
        assert image.camera is not None
        np.testing.assert_allclose(image.camera.calibration_matrix(), path.K[i])
        camera_point = path.pose_w2c[i] @ (*POINTS[0], 1.0)
        if camera_point[2] > 0:
            pixel = path.K[i] @ camera_point[:3]
            seen = image.project_point(POINTS[0])
            assert seen is not None
            np.testing.assert_allclose(seen, pixel[:2] / pixel[2], atol=1e-9)
    np.testing.assert_allclose([peer.points3D[i + 1].xyz for i in range(7)], POINTS)
    assert (np.array([peer.points3D[i + 1].color for i in range(7)]) == COLORS).all()


@BINARY
def test_we_read_pycolmaps_with_observations(tmp_path, binary):
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 1, 1, 4, 20
    options.camera_model_id = pycolmap.CameraModelId.PINHOLE
    options.camera_params = [500.0, 510.0, 320.0, 240.0]
    peer = pycolmap.synthesize_dataset(options)
    (peer.write_binary if binary else peer.write_text)(str(tmp_path))
    model = read_colmap(tmp_path)
    images = sorted(peer.images.values(), key=lambda image: image.name)
    assert model.names == tuple(image.name for image in images)
    w2c = np.stack([image.cam_from_world().matrix() for image in images])
    np.testing.assert_allclose(model.trajectory.pose_w2c[:, :3], w2c, atol=1e-9)
    np.testing.assert_allclose(model.trajectory.K[0], [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
    assert len(model.points_world) == len(peer.points3D)
    expected = np.array(sorted(point.xyz.tolist() for point in peer.points3D.values()))
    np.testing.assert_allclose(np.array(sorted(model.points_world.tolist())), expected, atol=1e-9)


def test_constant_intrinsics_are_one_camera_and_kinds_do_not_mix(tmp_path):
    cameras = make_trajectory("orbit", 4, width=64, height=40)
    write_colmap(tmp_path, cameras, binary=True)
    assert len(pycolmap.Reconstruction(str(tmp_path)).cameras) == 1
    write_colmap(tmp_path, cameras.scaled(2), binary=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cameras.txt", "images.txt", "points3D.txt"]
    model = read_colmap(tmp_path)
    np.testing.assert_allclose(model.trajectory.pose_c2w, cameras.scaled(2).pose_c2w, atol=1e-12)
    assert model.points_world.shape == (0, 3)
    (tmp_path / "points3D.txt").unlink()
    assert len(read_colmap(tmp_path).points_world) == 0


def test_every_cut_of_a_binary_model_is_refused(tmp_path):
    cameras = make_trajectory("orbit", 2, width=64, height=40)
    write_colmap(tmp_path, cameras, points_world=POINTS[:2])
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        whole = (tmp_path / name).read_bytes()
        for length in range(len(whole)):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(CameraFileError, match=name):
                read_colmap(tmp_path)
        (tmp_path / name).write_bytes(whole + b"\0")
        with pytest.raises(CameraFileError, match="1 byte"):
            read_colmap(tmp_path)
        (tmp_path / name).write_bytes(b"\xff" * 8 + whole[8:])
        with pytest.raises(CameraFileError, match="bin"):
            read_colmap(tmp_path)
        (tmp_path / name).write_bytes(whole)


def patch(file, at, data):
    whole = file.read_bytes()
    file.write_bytes(whole[:at] + data + whole[at + len(data) :])


@pytest.mark.parametrize(
    ("name", "at", "data", "parts"),
    [
        ("cameras.bin", 12, struct.pack("<i", 99), ["camera record 1", "number 99", "image_undistorter"]),
        ("cameras.bin", 32, struct.pack("<d", np.inf), ["camera record 1", "NaN or infinite"]),
        ("images.bin", 44, struct.pack("<d", np.nan), ["image record 1", "NaN or infinite"]),
        ("images.bin", 72, b"\xff", ["image record 1", "not UTF-8"]),
        ("points3D.bin", 16, struct.pack("<d", np.nan), ["points", "NaN or infinite"]),
    ],
)
def test_bad_binary_records(tmp_path, name, at, data, parts):
    write_colmap(tmp_path, make_trajectory("orbit", 2, width=64, height=40), points_world=POINTS)
    patch(tmp_path / name, at, data)
    with pytest.raises(CameraFileError) as caught:
        read_colmap(tmp_path)
    assert all(part in str(caught.value) for part in [name, *parts])


CAMERA = "1 PINHOLE 64 40 50 50 32 20\n"
IMAGE = "1 1 0 0 0 1 2 3 1 a.png\n\n"


def text_model(folder, cameras=CAMERA, images=IMAGE, points=""):
    for name, text in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_text_sample(tmp_path):
    images = "# comment\n2 1 0 0 0 1 2 3 1 b.png\n1.5 2.5 -1 3 4 7\n1 0 1 0 0 0 0 0 2 a.png\n\n"
    cameras = "# comment\n1 PINHOLE 64 40 50 51 32 20\n2 SIMPLE_RADIAL 64 40 60 30 19 0\n"
    points = "# comment\n1 1 2 3 255 128 0 0.5 1 0 2 1\n"
    model = read_colmap(text_model(tmp_path, cameras, images, points))
    assert model.names == ("a.png", "b.png")
    np.testing.assert_allclose(model.trajectory.centers_world[1], [-1, -2, -3])  # world-to-camera in the file
    np.testing.assert_allclose(model.trajectory.pose_c2w[0], np.diag([1, -1, -1, 1]))  # w, x, y, z
    np.testing.assert_allclose(model.trajectory.K[0], [[60, 0, 30], [0, 60, 19], [0, 0, 1]])
    np.testing.assert_allclose(model.trajectory.K[1], [[50, 0, 32], [0, 51, 20], [0, 0, 1]])
    np.testing.assert_allclose(model.points_world, [[1, 2, 3]])
    assert model.colors.tolist() == [[255, 128, 0]]


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"cameras": ""}, ["cameras.txt", "empty"]),
        ({"cameras": "1 THIN_PRISM 64 40\n"}, ["cameras.txt", "camera 1", "'THIN_PRISM'", "image_undistorter"]),
        ({"cameras": CAMERA.replace(" 20", "")}, ["line 1", "6 columns, expected 7"]),
        ({"cameras": "1 RADIAL 64 40 50 32 20 0.1 0\n"}, ["camera 1", "distortion [0.1, 0.0]"]),
        ({"cameras": CAMERA.replace("50 50", "0 50")}, ["camera 1", "above zero"]),
        ({"cameras": CAMERA.replace("1 PIN", "9 PIN")}, ["image 'a.png'", "camera 1 is not in cameras.txt"]),
        ({"images": "# nothing\n"}, ["images.txt", "no registered images"]),
        ({"images": IMAGE.replace(" a.png", "")}, ["images.txt", "line 1", "no image name"]),
        ({"images": IMAGE.replace("1 1 0", "1 2 0")}, ["image 'a.png'", "length 2"]),
        ({"images": IMAGE.replace("1 2 3", "1 nan 3")}, ["line 1", "column 7 is 'nan'"]),
        ({"points": "1 2 3\n"}, ["points3D.txt", "line 1", "3 columns, expected 8"]),
        (
            {"cameras": CAMERA + "2 PINHOLE 65 40 50 50 32 20\n", "images": IMAGE + "2 1 0 0 0 1 2 3 2 b.png\n\n"},
            ["image 'b.png'", "one size"],
        ),
    ],
)
def test_bad_text_models(tmp_path, files, parts):
    with pytest.raises(CameraFileError) as caught:
        read_colmap(text_model(tmp_path, **files))
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["a"]}, "1 .*5"),
        ({"names": list("aabcd")}, "4 "),
        ({"names": ["a", "b", "c", "d", "e\nf"]}, "line break"),
        ({"points_world": np.full((2, 3), np.nan)}, "finite"),
        ({"colors": COLORS}, "points"),
        ({"points_world": POINTS, "colors": COLORS / 255}, "uint8"),
    ],
)
def test_bad_writes(tmp_path, path, options, message):
    with pytest.raises(ValueError, match=message):
        write_colmap(tmp_path, path, **options)
