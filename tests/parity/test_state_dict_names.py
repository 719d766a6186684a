"""Names and shapes of the released state dicts, built on the meta device."""

import re
from pathlib import Path

import pytest
import torch

from fw_model.checkpoints.keys import released_names, to_released
from fw_model.config import PRESETS, preset, wan22_fun_a14b
from fw_model.model.model import FantasyWorld

GOLDEN = Path(__file__).parent / "golden"


def released_list(name: str) -> dict[str, tuple[int, ...]]:
    lines = (GOLDEN / name).read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines if line.strip())
    return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in pairs}


def on_meta(config) -> FantasyWorld:
    with torch.device("meta"):
        return FantasyWorld(config)


@pytest.mark.parametrize(
    ("config", "keys", "count"),
    [
        (preset("wan21_i2v_14b"), "keys_wan21.txt", 3132),
        (wan22_fun_a14b("low_noise"), "keys_wan22.txt", 2658),
        (wan22_fun_a14b("high_noise"), "keys_wan22.txt", 2658),
    ],
)
def test_released_state_dicts(config, keys, count):
    world = on_meta(config)
    ours = {to_released(name): tuple(value.shape) for name, value in world.state_dict().items()}
    theirs = released_list(keys)
    assert len(theirs) == count
    assert ours == theirs


@pytest.mark.parametrize("name", PRESETS)
def test_mapping_is_total_and_one_to_one(name):
    world = on_meta(preset(name))
    names = released_names(world)
    assert sorted(names.values()) == sorted(n for n, _ in world.named_parameters())
    prefixes = ("pipe.dit.", "IRGBlock.", "vggt.", "camera_condition.")
    assert all(key.startswith(prefixes) for key in names)
    assert list(world.state_dict()) == [n for n, _ in world.named_parameters()]  # nothing else is stored
