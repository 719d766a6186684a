"""World folders: read back as written; an incomplete folder is an error that names the folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from fw_geometry import make_trajectory
from fw_model.export import export_world, read_shape, read_world
from fw_model.pipeline.result import World

F, H, W = 5, 32, 48


@pytest.fixture
def world() -> World:
    rng = np.random.default_rng(0)
    path = make_trajectory("dolly", F, width=W, height=H, distance=0.5)
    return World(
        video=rng.integers(0, 256, (F, H, W, 3), np.uint8),
        depth=rng.uniform(1, 3, (F, H, W)).astype(np.float32),
        depth_confidence=np.full((F, H, W), 2, np.float32),
        points=rng.normal(size=(F, H, W, 3)).astype(np.float32),
        points_confidence=np.full((F, H, W), 3, np.float32),
        trajectory=path,
        requested=path.scaled(2.0),
        fps=12.5,
        settings={"seed": 1},
    )


def test_a_world_is_read_as_written(tmp_path: Path, world: World):
    export_world(world, tmp_path)
    found = read_world(tmp_path)
    for name in ("video", "depth", "depth_confidence", "points", "points_confidence"):
        np.testing.assert_array_equal(getattr(found, name), getattr(world, name))
    np.testing.assert_array_equal(found.trajectory.pose_c2w, world.trajectory.pose_c2w)
    np.testing.assert_array_equal(found.requested.K, world.requested.K)
    assert (found.fps, found.settings) == (12.5, {"seed": 1})
    assert read_shape(tmp_path) == (F, H, W)


def test_incomplete_worlds_are_named(tmp_path: Path, world: World):
    export_world(world, tmp_path)
    (tmp_path / "images" / "frame_00003.png").unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path.name}.*4 images"):
        read_world(tmp_path)
    about = json.loads((tmp_path / "world.json").read_text())
    del about["frames"]
    (tmp_path / "world.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"world\.json"):
        read_shape(tmp_path)
    (tmp_path / "geometry.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=tmp_path.name):
        read_world(tmp_path)
