"""Exported files, read back by the programs they are for: PyAV, Pillow, trimesh, pycolmap and our own readers."""

import json
import time
from typing import Any

import av
import numpy as np
import pycolmap
import pytest
import trimesh
from PIL import Image

from fw_geometry import make_trajectory
from fw_geometry.formats import read_camera_json, read_colmap, read_transforms_json
from fw_model.export import (
    PointCloud,
    cloud_of_world,
    colorize,
    export_world,
    write_depth_png,
    write_glb,
    write_ply,
    write_video,
)
from fw_model.export.cameras import one_focal_length, write_cameras
from fw_model.export.depth import color_table
from fw_model.pipeline.result import World

F, H, W = 5, 32, 48


@pytest.fixture(scope="module")
def world() -> World:
    """A slanted plane seen by a dollying camera, with a confidence that falls to the right."""
    rng = np.random.default_rng(0)
    path = make_trajectory("dolly", F, width=W, height=H, distance=0.5)
    smooth = np.linspace(0, 255, W)[None, None, :, None] * np.array([1, 0.5, 0.2]) * np.ones((F, H, 1, 1))
    depth = (2 + np.linspace(0, 1, W) * np.ones((F, H, 1))).astype(np.float32)
    confidence = (1 + np.linspace(5, 0, W) * np.ones((F, H, 1))).astype(np.float32)
    return World(
        video=smooth.astype(np.uint8),
        depth=depth,
        depth_confidence=confidence,
        points=rng.normal(size=(F, H, W, 3)).astype(np.float32),
        points_confidence=confidence[:, :, ::-1].copy(),
        trajectory=path,
        requested=path.scaled(2.0),
        fps=12.5,
        settings={"seed": 1},
    )


def _decode(path) -> tuple[np.ndarray, Any]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)]), stream.average_rate


def test_video_comes_back(tmp_path, world):
    frames, rate = _decode(write_video(tmp_path / "new" / "v.mp4", world.video, 12.5))
    assert frames.shape == world.video.shape
    assert float(rate) == 12.5
    error = np.square(frames.astype(float) - world.video).mean()
    assert 10 * np.log10(255**2 / error) > 33
    again = write_video(tmp_path / "again.mp4", world.video, 12.5)
    assert again.read_bytes() == (tmp_path / "new" / "v.mp4").read_bytes()
    assert b" threads=1 " in again.read_bytes()  # x264 writes its settings into the stream
    odd = write_video(tmp_path / "odd.mp4", world.video[:, :31, :45], 24)
    assert _decode(odd)[0].shape == (F, 30, 44, 3)
    with pytest.raises(ValueError, match=r"\(0, "):
        write_video(tmp_path / "none.mp4", world.video[:0])


def test_colors_follow_inverse_depth():
    depth = np.array([[0.0, 1.0, 2.0, 4.0, np.nan, np.inf]])
    gray = colorize(depth, color_map="gray")
    assert gray.shape == (1, 6, 3)
    assert gray[0, 1, 0] > gray[0, 2, 0] > gray[0, 3, 0]
    assert gray[0, [0, 4, 5]].max() == 0
    assert colorize(np.zeros((2, 3))).max() == 0
    assert colorize(np.full((2, 3), 7.0)).shape == (2, 3, 3)
    turbo = color_table("turbo").astype(int)
    assert turbo[230, 0] > turbo[230, 2]  # near is warm
    assert turbo[25, 2] > turbo[25, 0]
    brightness = color_table("inferno").astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) >= -0.51).all()
    with pytest.raises(ValueError, match="turbo"):
        color_table("jet")


def test_depth_png_keeps_sixteen_bits(tmp_path):
    depth = np.random.default_rng(1).uniform(0.3, 80, (2, 9, 7)).astype(np.float32)
    depth[0, 0, 0] = 0
    depth[1, 2, 3] = np.nan
    *frames, note = write_depth_png(tmp_path / "depth", depth)
    scale = float(note.read_text().split()[0])
    for file, truth in zip(frames, depth, strict=True):
        stored = np.asarray(Image.open(file))
        assert stored.dtype == np.uint16
        valid = truth > 0
        np.testing.assert_allclose(stored[valid] * scale, truth[valid], atol=0.51 * scale)
        assert stored[~valid].max(initial=0) == 0


def test_ply_is_read_by_trimesh(tmp_path):
    rng = np.random.default_rng(2)
    cloud = PointCloud(
        points=rng.normal(size=(500, 3)).astype(np.float32), colors=rng.integers(0, 256, (500, 3), dtype=np.uint8)
    )
    loaded = trimesh.load(write_ply(tmp_path / "a.ply", cloud))
    assert isinstance(loaded, trimesh.PointCloud)
    np.testing.assert_array_equal(np.asarray(loaded.vertices, dtype=np.float32), cloud.points)
    np.testing.assert_array_equal(np.asarray(loaded.colors)[:, :3], cloud.colors)


def test_glb_is_read_by_trimesh(tmp_path):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(500, 3)).astype(np.float32)
    colors = np.repeat(np.array([[0, 128, 255]], dtype=np.uint8), 500, axis=0)
    scene = trimesh.load(write_glb(tmp_path / "a.glb", PointCloud(points=points, colors=colors)))
    assert isinstance(scene, trimesh.Scene)
    (loaded,) = scene.geometry.values()
    assert isinstance(loaded, trimesh.PointCloud)
    np.testing.assert_allclose(loaded.vertices, points * [1, -1, -1], atol=1e-7)
    # 128 is 21.6 % of full light, and trimesh reads 55 of 255
    raw = (tmp_path / "a.glb").read_bytes()
    first = np.frombuffer(raw[-500 * 12 :], dtype="<f4").reshape(500, 3)[0]
    np.testing.assert_allclose(first, [0, 0.21586, 1], atol=1e-4)
    np.testing.assert_array_equal(loaded.colors[0], [0, 55, 255, 255])
    with pytest.raises(ValueError, match="drop_percent"):
        write_glb(tmp_path / "b.glb", PointCloud(points=points[:0], colors=colors[:0]))


def test_glb_follows_the_container_rules(tmp_path):
    points = np.arange(21, dtype=np.float32).reshape(7, 3)
    raw = write_glb(tmp_path / "a.glb", PointCloud(points=points, colors=np.zeros((7, 3), dtype=np.uint8))).read_bytes()
    magic, version, total = raw[:4], *np.frombuffer(raw[4:12], dtype="<u4").tolist()
    assert (magic, version, total) == (b"glTF", 2, len(raw))
    length = int(np.frombuffer(raw[12:16], dtype="<u4")[0])
    assert length % 4 == 0
    document = json.loads(raw[20 : 20 + length])
    assert document["accessors"][0]["max"] == [18.0, -1.0, -2.0]
    binary = int(np.frombuffer(raw[20 + length : 24 + length], dtype="<u4")[0])
    assert binary % 4 == 0
    assert document["buffers"][0]["byteLength"] == binary == len(raw) - 28 - length


def test_a_million_points_take_less_than_a_second(tmp_path):
    cloud = PointCloud(points=np.ones((1_000_000, 3), dtype=np.float32), colors=np.ones((1_000_000, 3), dtype=np.uint8))
    start = time.process_time()
    write_ply(tmp_path / "a.ply", cloud)
    write_glb(tmp_path / "a.glb", cloud)
    assert time.process_time() - start < 1
    assert (tmp_path / "a.ply").stat().st_size > 15_000_000


def test_confidence_decides_what_stays(world):
    everything = cloud_of_world(world, drop_percent=0, stride=1)
    assert len(everything.points) == F * H * W
    half = cloud_of_world(world, drop_percent=50, stride=1)
    assert len(half.points) == F * H * W // 2
    assert half.colors[:, 0].max() < 130  # the sure half is the left one
    other = cloud_of_world(world, source="points", drop_percent=50, stride=1)
    assert other.colors[:, 0].min() > 120
    assert len(cloud_of_world(world, drop_percent=0, stride=4, frames=slice(0, 2)).points) == 2 * 8 * 12
    assert len(cloud_of_world(world, drop_percent=100).points) == 0
    with pytest.raises(ValueError, match="drop_percent"):
        cloud_of_world(world, drop_percent=120)
    with pytest.raises(ValueError, match="stride"):
        cloud_of_world(world, stride=0)


def test_points_lie_where_depth_and_camera_say(world):
    points = world.points_from_depth()
    camera = world.trajectory[4]
    seen = points[4, 10, 20]
    local = camera.pose_w2c[:3, :3] @ seen + camera.pose_w2c[:3, 3]
    assert local[2] == pytest.approx(world.depth[4, 10, 20], rel=1e-5)
    pixel = camera.K @ local / local[2]
    assert pixel[:2] == pytest.approx([20.5, 10.5], abs=1e-3)


def test_cameras_are_read_by_pycolmap_and_our_readers(tmp_path, world):
    cloud = cloud_of_world(world, stride=4)
    written = write_cameras(tmp_path, world.trajectory, cloud=cloud)
    assert all(path.is_file() for path in written)
    model = pycolmap.Reconstruction(str(tmp_path / "colmap" / "sparse" / "0"))
    assert len(model.images) == F
    assert len(model.points3D) == len(cloud.points)
    by_name = {image.name: image for image in model.images.values()}
    for i in range(F):
        pose = by_name[f"frame_{i:05d}.png"].cam_from_world()
        np.testing.assert_allclose(pose.matrix(), world.trajectory.pose_w2c[i, :3], atol=1e-9)
    for again in (
        read_colmap(tmp_path / "colmap" / "sparse" / "0").trajectory,
        read_transforms_json(tmp_path / "transforms.json").trajectory,
        read_camera_json(tmp_path / "cameras.json", width=W, height=H),
    ):
        np.testing.assert_allclose(again.pose_c2w, world.trajectory.pose_c2w, atol=1e-9)
        np.testing.assert_allclose(again.K, world.trajectory.K, atol=1e-6)


def test_one_focal_length_is_the_mean(world):
    K = world.trajectory.K * np.linspace(0.9, 1.1, F)[:, None, None]
    K[:, 2, 2] = 1
    path = type(world.trajectory)(pose_c2w=world.trajectory.pose_c2w, K=K, width=W, height=H)
    np.testing.assert_allclose(one_focal_length(path).K[:, 0, 0], world.trajectory.K[0, 0, 0])


def test_a_world_in_every_format(tmp_path, world):
    written = export_world(world, tmp_path / "out")
    assert len(written) == len(set(written))
    assert sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file()) == sorted(written)
    names = {path.name for path in written}
    assert {"video.mp4", "depth.mp4", "geometry.npz", "points.ply", "points.glb", "world.json"} <= names
    assert {"cameras.json", "transforms.json", "requested_cameras.json", "frame_00004.png"} <= names
    with np.load(tmp_path / "out" / "geometry.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["depth"], world.depth)
        np.testing.assert_array_equal(arrays["pose_c2w"], world.trajectory.pose_c2w)
        np.testing.assert_array_equal(arrays["requested_pose_c2w"], world.requested.pose_c2w)
    summary = json.loads((tmp_path / "out" / "world.json").read_text())
    assert summary["settings"] == {"seed": 1}
    assert summary["camera_error"]["rotation_deg"] == pytest.approx(0, abs=1e-6)
    assert summary["path_length"]["requested"] == pytest.approx(2 * summary["path_length"]["recovered"])
    image = np.asarray(Image.open(tmp_path / "out" / "images" / "frame_00002.png"))
    np.testing.assert_array_equal(image, world.video[2])
    images = [path for path in written if "gaussians" in path.parts or path.parent.name == "images"]
    bare = export_world(world, tmp_path / "bare", drop_percent=100, images=False)
    assert len(bare) == len(written) - len(images) - 1  # no images, and no GLB of an empty cloud


def test_a_folder_to_start_gaussians_from(tmp_path, world):
    """As COLMAP's own reader sees it: every image is there, pinhole cameras, points in the colors of their pixels."""
    export_world(world, tmp_path, drop_percent=0)
    model = pycolmap.Reconstruction(str(tmp_path / "gaussians" / "sparse" / "0"))
    assert {camera.model.name for camera in model.cameras.values()} == {"PINHOLE"}
    assert len(model.points3D) == F * (H // 2) * (W // 2)
    image = min(model.images.values(), key=lambda image: image.name)
    frame = np.asarray(Image.open(tmp_path / "gaussians" / "images" / image.name))
    assert frame.shape == (H, W, 3)
    assert len(list((tmp_path / "gaussians" / "images").iterdir())) == len(model.images) == F
    seen = 0
    for _, point in sorted(model.points3D.items())[: H // 2 * W // 2]:  # the points of the first frame
        pixel = image.project_point(point.xyz)
        assert pixel is not None
        column, row = np.floor(pixel).astype(int)
        seen += int(np.array_equal(frame[row, column], point.color))
    assert seen == H // 2 * W // 2


def test_camera_files_by_their_own_rules(tmp_path, world):
    """Read with json alone: nerfstudio holds OpenGL axes, the released layout OpenCV ones."""
    written = write_cameras(tmp_path, world.trajectory)
    assert tmp_path / "transforms.json" in written
    nerf = json.loads((tmp_path / "transforms.json").read_text())
    assert len(nerf["frames"]) == F
    for i, frame in enumerate(nerf["frames"]):
        pose = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1, -1, 1])
        np.testing.assert_allclose(pose, world.trajectory.pose_c2w[i], atol=1e-9)
        assert frame["file_path"] == f"images/frame_{i:05d}.png"
        focal = frame.get("fl_x", nerf.get("fl_x"))
        assert focal == pytest.approx(world.trajectory.K[i, 0, 0])
    released = json.loads((tmp_path / "cameras.json").read_text())
    np.testing.assert_allclose(released["cameras_interp"], world.trajectory.pose_c2w, atol=1e-9)
    assert released["focal_length"] == pytest.approx(world.trajectory.K[0, 0, 0])
