"""`fw generate --segments`: one world of several clips, alone and as rows of a batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fw_app import cli
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints.checkpoint import save_world
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.export import read_world
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.components import save_components
from fw_model.pipeline.settings import Sampling


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "checkpoint"
    save_world(FantasyWorld(tiny(), seed=0), folder, dtype=torch.float32)
    sampling = Sampling(num_frames=5, height=32, width=48, num_inference_steps=1, guidance_scale=1.0)
    save_components(folder, BlockDCT(), HashTextEncoder(), sampling=sampling)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def generate(*words: object) -> int:
    return cli.main(["generate", *map(str, words), "--device", "cpu"])


def test_a_long_world_is_one_folder_and_the_same_command_continues(
    photo: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (photo, "--checkpoint", checkpoint, "--out", tmp_path / "world", "--segments", 3, "--trajectory", "truck")
    assert generate(*command) == 0
    said = capsys.readouterr().out
    assert "segment 2/3 denoise" in said
    assert "seam at frame 8: overlap PSNR" in said
    world = read_world(tmp_path / "world")
    assert len(world.video) == len(world.trajectory) == 13
    np.testing.assert_allclose(world.requested.path_length(), 0.3, rtol=1e-6)  # the preset spans all segments
    seams = json.loads((tmp_path / "world" / "world.json").read_text())["seams"]
    assert [seam["frame"] for seam in seams] == [4, 8]
    assert generate(*command) == 0
    assert "denoise" not in capsys.readouterr().out


def test_a_camera_file_sets_the_length_of_the_segments(photo: Path, checkpoint: Path, tmp_path: Path) -> None:
    poses = "".join(f"{i} 0 0 {0.01 * i} 0 0 0 1\n" for i in range(12))  # TUM; 11 cameras are two segments of 5 frames
    (tmp_path / "path.txt").write_text(poses)
    command = (photo, "--checkpoint", checkpoint, "--out", tmp_path / "world", "--segments", 2)
    assert generate(*command, "--trajectory", tmp_path / "path.txt") == 0
    world = read_world(tmp_path / "world")
    assert len(world.video) == 9
    assert any("last 3 have no effect" in note for note in world.notes)


def test_long_worlds_in_a_batch(photo: Path, checkpoint: Path, tmp_path: Path) -> None:
    batch = tmp_path / "worlds.jsonl"
    rows = [{"image": "photo.png", "segments": 2, "name": "long"}, {"image": "photo.png", "name": "short"}]
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert generate("--batch", batch, "--checkpoint", checkpoint, "--out", tmp_path / "out") == 0
    assert [len(read_world(tmp_path / "out" / name).video) for name in ("long", "short")] == [9, 5]


@pytest.mark.parametrize("words", [("--segments", "0"), ("--segments", "2", "--server", "http://127.0.0.1:9")])
def test_wrong_segments_are_refused(
    photo: Path, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(photo, "--out", tmp_path / "world", *words) == 2
    assert "--segments" in capsys.readouterr().err
    assert not (tmp_path / "world").exists()
