"""The weights that come with the package: found by name, stored in half precision, computed with in float32."""

import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints import shipped
from fw_model.checkpoints.checkpoint import save_world
from fw_model.checkpoints.shipped import SMALL_WORLD, example_image, example_images, shipped_weights
from fw_model.checkpoints.sources import local_folder
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.components import save_components
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.settings import Sampling
from fw_toy.rooms.clip import HELD_OUT_PATHS, HELD_OUT_WORLDS, render_room

LIMIT_BYTES = 40_000_000
EXAMPLES = Path(shipped.__file__).parents[1] / "example_images"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that has weights: the folder of a small model in float16."""
    folder = tmp_path / "small_world"
    save_world(FantasyWorld(tiny(), seed=0), folder, dtype=torch.float16)
    save_components(
        folder,
        BlockDCT(),
        HashTextEncoder(),
        sampling=Sampling(num_frames=5, height=16, width=32, num_inference_steps=2),
    )
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "checkpoints" / "shipped.py"))
    return folder


def test_the_name_means_the_folder_even_beside_one_of_that_name(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / SMALL_WORLD).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert local_folder(SMALL_WORLD) == installed
    assert local_folder(f"./{SMALL_WORLD}") == Path(SMALL_WORLD)


def test_what_is_stored_in_float16_is_computed_in_float32(installed: Path) -> None:
    pipeline = WorldPipeline.from_pretrained(SMALL_WORLD)
    assert {p.dtype for p in pipeline.world.parameters()} == {torch.float32}
    stored = FantasyWorld.from_pretrained(installed)
    assert {p.dtype for n, p in stored.named_parameters() if "_head." not in n} == {torch.float16}
    for name, value in stored.named_parameters():
        torch.testing.assert_close(pipeline.world.get_parameter(name), value.float(), rtol=0, atol=0)
    asked = WorldPipeline.from_pretrained(SMALL_WORLD, dtype=torch.bfloat16)
    assert {p.dtype for n, p in asked.world.named_parameters() if "_head." not in n} == {torch.bfloat16}


def test_an_installation_without_them_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "checkpoints" / "shipped.py"))
    with pytest.raises(ValueError, match="small-world"):
        WorldPipeline.from_pretrained(SMALL_WORLD)


def test_the_shipped_weights_are_small_and_have_a_model_card() -> None:
    folder = shipped_weights()
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= LIMIT_BYTES, sizes
    assert {"config.json", "model.safetensors", "pipeline.json", "README.md", "vae/model.safetensors"} <= set(sizes)
    about = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert about["project"]["license"] in card
    for name in ("model.safetensors", "vae/model.safetensors"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in card, name


def test_the_shipped_weights_make_a_world() -> None:
    pipeline = WorldPipeline.from_pretrained(SMALL_WORLD, preset="small_world")
    path = make_trajectory("dolly", 5, width=96, height=64)
    image = torch.full((64, 96, 3), 128, dtype=torch.uint8).numpy()
    *_, last = pipeline.generate(image, "a room", path, num_inference_steps=2)
    assert last.world is not None
    assert last.world.video.shape == (5, 64, 96, 3)


def test_the_example_images_are_held_out_rooms_with_their_captions() -> None:
    rows = {row["name"]: row for row in json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))}
    assert len(example_images()) == len(rows) >= 6
    for example in example_images():
        seed = rows[example.name]["seed"]
        assert HELD_OUT_WORLDS <= seed < HELD_OUT_PATHS
        clip = render_room(seed, frames=5, height=192, width=288)
        stored = np.asarray(Image.open(example.path), np.float64)
        assert np.abs(stored - clip.video[0]).mean() < 2.0, example.name
        assert clip.plan.caption.startswith(example.prompt)
    assert example_image("example:room-2") == example_images()[1]
    with pytest.raises(ValueError, match=r"room-77.*example:room-1"):
        example_image("example:room-77")
