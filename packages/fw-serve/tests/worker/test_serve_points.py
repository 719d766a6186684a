"""The point cloud file for viewers, read back as docs/reference/api.md describes it."""

import json
import struct

import numpy as np
import pytest

from fw_geometry.trajectories import make_trajectory
from fw_model.pipeline.result import World
from fw_serve.worker.points import rank_bytes, write_points

F, H, W = 3, 8, 12


@pytest.fixture
def world():
    random = np.random.default_rng(0)
    depth = random.uniform(1, 3, (F, H, W)).astype(np.float32)
    depth[1, :2] = np.nan
    path = make_trajectory("orbit", F, width=W, height=H)
    return World(
        video=random.integers(0, 256, (F, H, W, 3), dtype=np.uint8),
        depth=depth,
        depth_confidence=random.uniform(1, 9, (F, H, W)).astype(np.float32),
        points=np.zeros((F, H, W, 3), np.float32),
        points_confidence=np.ones((F, H, W), np.float32),
        trajectory=path,
        requested=make_trajectory("dolly", F, width=W, height=H),
        fps=8.0,
    )


def read(path):
    content = path.read_bytes()
    magic, version, size = struct.unpack_from("<8sII", content)
    assert (magic, version) == (b"FWPOINTS", 1)
    header, count, at = json.loads(content[16 : 16 + size]), 0, 16 + size
    assert at % 4 == 0
    count = header["points"]
    position = np.frombuffer(content, "<f4", 3 * count, at).reshape(count, 3)
    color = np.frombuffer(content, "u1", 3 * count, at + 12 * count).reshape(count, 3)
    confidence = np.frombuffer(content, "u1", count, at + 15 * count)
    assert len(content) == at + 16 * count
    return header, position, color, confidence


def test_points_read_back_by_frame_with_colors_confidence_and_cameras(world, tmp_path):
    header, position, color, confidence = read(write_points(tmp_path / "points.bin", world))
    assert (header["frames"], header["height"], header["width"], header["stride"]) == (F, H, W, 1)
    assert header["points_of_frame"] == [H * W, H * W - 2 * W, H * W]
    keep = np.isfinite(world.depth)
    assert np.array_equal(position, world.points_from_depth()[keep])
    assert np.array_equal(color, world.video[keep])
    order = np.argsort(world.depth_confidence[keep])
    assert (np.diff(confidence[order].astype(int)) >= 0).all()
    assert (confidence.min(), confidence.max()) == (0, 255)
    poses = np.array(header["cameras"]["pose_c2w"]).reshape(F, 3, 4)
    assert np.allclose(poses, world.trajectory.pose_c2w[:, :3], atol=1e-6)
    assert np.allclose(header["requested"]["K"][0], world.requested.K[0][[0, 1, 0, 1], [0, 1, 2, 2]], atol=1e-3)


def test_the_stride_grows_until_the_points_fit(world, tmp_path):
    header, position, *_ = read(write_points(tmp_path / "points.bin", world, max_points=F * H * W // 4))
    assert header["stride"] == 2
    assert len(position) == header["points"] <= F * H * W // 4


def test_equal_confidences_stay_equal_and_a_share_of_half_drops_half():
    assert rank_bytes(np.array([5.0, 5.0, 1.0, 9.0])).tolist() == [64, 64, 0, 192]
    assert (rank_bytes(np.arange(1000.0)) >= 128).mean() == pytest.approx(0.5, abs=0.002)
    assert rank_bytes(np.zeros(0)).size == 0
