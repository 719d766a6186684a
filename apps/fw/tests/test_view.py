"""`fw view`: what it loads from datasets and worlds, and that the page is served with the right things in it."""

import urllib.request
from pathlib import Path

import numpy as np
import pytest
import viser

from fw_app.viewer import ViewerScene, load, serve
from fw_geometry import make_trajectory
from fw_model.export import export_world
from fw_model.pipeline.result import World


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The folder of a generated world: a wall two units away, seen by a camera that moves sideways."""
    frames, height, width = 3, 8, 12
    cameras = make_trajectory("truck", frames, width=width, height=height)
    rng = np.random.default_rng(0)
    depth = np.full((frames, height, width), 2.0, np.float32)
    folder = tmp_path / "world"
    export_world(
        World(
            video=np.stack([np.full((height, width, 3), 40 * index, np.uint8) for index in range(frames)]),
            depth=depth,
            depth_confidence=np.full(depth.shape, 2, np.float32),
            points=rng.normal(size=(frames, height, width, 3)).astype(np.float32),
            points_confidence=np.arange(depth.size, dtype=np.float32).reshape(depth.shape),
            trajectory=cameras,
            requested=cameras,
        ),
        folder,
    )
    return folder


def test_a_world_is_read_and_ranked(world):
    scene = load(world)
    assert scene.video.shape == (3, 8, 12, 3)
    assert scene.video[2].max() == 80
    assert scene.requested is not None
    for rank in scene.rank.reshape(3, -1):
        np.testing.assert_allclose(rank, np.arange(1, 97) / 96)  # the confidences rise


def test_the_page_shows_points_cameras_and_both_paths(world):
    scene: ViewerScene = load(world)
    server = serve(scene, port=0)
    try:
        page = urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=10).read()
        assert b"<html" in page
        nodes = server.scene._handle_from_node_name
        assert {"/points", "/camera", "/path", "/requested"} <= set(nodes)
        cloud = nodes["/points"]
        assert isinstance(cloud, viser.PointCloudHandle)
        assert len(cloud.points) == 58  # the surest 60 % of the 96 pixels of the first frame
    finally:
        server.stop()


def test_what_cannot_be_shown_is_said(tmp_path, world):
    with pytest.raises(ValueError, match=r"manifest\.parquet.*geometry\.npz"):
        load(tmp_path)
    (world / "images" / "frame_00000.png").unlink()
    with pytest.raises(ValueError, match=r"images.*2.*3"):
        load(world)
