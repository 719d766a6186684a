"""The examples run as they stand, in a folder of their own, and leave the files that they promise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from fw_data import ClipDataset
from fw_geometry import formats
from fw_model.config import Compat
from fw_model.model.model import FantasyWorld

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = {
    "01_generate_world.py": {
        "cameras.json", "colmap", "depth", "depth.mp4", "gaussians", "geometry.npz", "images", "points.glb",
        "points.ply", "requested_cameras.json", "transforms.json", "video.mp4", "world.json",
    },
    "02_checkpoints.py": {"broken.safetensors", "converted", "model.pth", "started", "wan.safetensors"},
    "03_training_step.py": {"losses.json"},
    "04_dataset.py": {"again", "dataset", "nerfstudio", "raw", "truth"},
}  # fmt: skip


def run(name: str, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_every_example_is_listed_short_and_tested() -> None:
    found = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert found == sorted(FILES)
    listed = (EXAMPLES / "README.md").read_text()
    for name in found:
        assert f"({name})" in listed
        assert len((EXAMPLES / name).read_text().splitlines()) < 80


@pytest.mark.slow
def test_a_world_from_a_image(tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    Image.fromarray(np.zeros((50, 80, 3), dtype=np.uint8)).save(image)
    name = "01_generate_world.py"
    said = run(name, tmp_path, "--image", str(image), "--out", "world")
    assert "denoise  4/4" in said
    world = tmp_path / "world"
    assert {path.name for path in world.iterdir()} == FILES[name]
    for video in ("video.mp4", "depth.mp4"):
        with av.open(str(world / video)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert [frame.shape for frame in frames] == [(64, 96, 3)] * 17
    with np.load(world / "geometry.npz") as arrays:
        assert arrays["depth"].shape == (17, 64, 96)
        assert np.isfinite(arrays["points"]).all()
    assert len(trimesh.load(world / "points.ply").vertices) > 1000  # type: ignore[union-attr]
    assert len(formats.read_colmap(world / "colmap" / "sparse" / "0").trajectory) == 17
    assert len(list((world / "images").glob("*.png"))) == len(list((world / "depth").glob("*.png"))) == 17
    assert json.loads((world / "world.json").read_text())["settings"]["num_inference_steps"] == 4


@pytest.mark.slow
def test_checkpoints_load_and_convert(tmp_path: Path) -> None:
    name = "02_checkpoints.py"
    said = run(name, tmp_path, "--out", "made")
    made = tmp_path / "made"
    assert {path.name for path in made.iterdir()} == FILES[name]
    assert "in the original layout" in said
    assert "refused:" in said
    assert "head.head.bias" in said
    assert FantasyWorld.from_pretrained(made / "converted").config.compat == Compat.released()
    started = FantasyWorld.from_pretrained(made / "started")
    assert sum(p.numel() for p in started.parameters()) == 9_265_855  # the total of its table
    assert "9,265,855" in said


@pytest.mark.slow
def test_training_steps_by_hand(tmp_path: Path) -> None:
    said = run("03_training_step.py", tmp_path, "losses.json")
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert set(losses) == {"stage1", "stage2"}
    first, second = losses["stage1"], losses["stage2"]
    assert first["total"] == pytest.approx(first["depth"] + first["points"] + 3 * first["camera"], rel=1e-5)
    assert second["total"] == pytest.approx(second["flow"] + second["geometry"], rel=1e-5)
    assert "got a gradient" in said


@pytest.mark.slow
def test_a_dataset_from_videos_and_back(tmp_path: Path) -> None:
    name = "04_dataset.py"
    said = run(name, tmp_path, "demo")
    demo = tmp_path / "demo"
    assert {path.name for path in demo.iterdir()} == FILES[name]
    before, after = ClipDataset(demo / "dataset"), ClipDataset(demo / "again")
    assert [record.grade for record in before.records] == [record.grade for record in after.records] == ["A", "A"]
    found = re.search(r"is ([\d.]+) away from the last camera, where the depth map says ([\d.]+)", said)
    assert found is not None
    assert float(found[1]) == pytest.approx(float(found[2]), rel=0.01)
    assert "'step': 3" in said
    assert "CC0-1.0" in (demo / "dataset" / "README.md").read_text()
