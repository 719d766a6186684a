"""Presets and their JSON."""

import dataclasses
import json

import pytest

from fw_model.config import PRESETS, Compat, CrossBranchConfig, WorldConfig, preset, wan22_fun_a14b


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = preset(name)
    assert WorldConfig.from_json(config.to_json()) == config
    assert isinstance(json.loads(config.to_json())["geometry"]["dpt_taps"], list)


def test_presets_of_the_paper():
    released, fun, tiny = preset("wan21_i2v_14b"), preset("wan21_fun_1_3b"), preset("tiny")
    assert (released.pcb_blocks, released.irg_blocks) == (16, 24)
    assert (fun.pcb_blocks, fun.irg_blocks) == (12, 18)
    assert (tiny.pcb_blocks, tiny.irg_blocks) == (4, 8)
    assert [released.has_adapter(i) for i in (0, 24, 25)] == [True, True, False]
    assert [fun.has_adapter(i) for i in (0, 11, 12)] == [True, True, False]
    for config in (fun, tiny):  # taps at the paper's proportions {8, 12, 18, 24} of 24, one-based, deepest first
        for tap, paper in zip(config.geometry.dpt_taps, (24, 18, 12, 8), strict=True):
            assert abs((tap + 1) - paper * config.irg_blocks / 24) <= 0.5
        assert config.compat == (Compat(plucker="relative") if config is tiny else Compat())
    assert released.geometry.dpt_taps == (23, 17, 11, 7)
    assert released.compat == Compat.released()


def test_the_two_experts_share_the_way():
    low, high = wan22_fun_a14b("low_noise"), wan22_fun_a14b("high_noise")
    assert low.timestep_range == (0.0, 900.0)
    assert high.timestep_range == (900.0, 1000.0)
    assert low.name != high.name
    assert low.compat.plucker == "correct"


def test_unknown_and_missing_fields_are_named():
    values = preset("tiny").to_dict()
    with pytest.raises(ValueError, match="color"):
        WorldConfig.from_dict({**values, "color": 1})
    del values["video"]["heads"]
    with pytest.raises(ValueError, match=r"video.*heads"):
        WorldConfig.from_dict(values)
    with pytest.raises(ValueError, match=r"huge.*tiny, small_world, wan21_fun_1_3b"):
        preset("huge")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("video", {"dim": 64, "heads": 4}, "video.*64/4"),  # head width 16: other libraries differ
        ("video", {"dim": 128, "heads": 2}, "video.*128/2"),  # 64 as well
        ("video", {"in_dim": 20}, "in_dim 20"),
        ("geometry", {"dpt_taps": (8, 5, 3, 2)}, r"dpt_taps.*8.*0\.\.7"),
        ("geometry", {"heads": 32}, r"width.*heads"),
        ("geometry", {"dpt_features": 12}, "dpt_features"),
        ("camera", {"adapter_blocks": 13}, "adapter_blocks"),
    ],
)
def test_configs_that_cannot_be_built(part, change, message):
    config = preset("tiny")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **change)})
    with pytest.raises(ValueError, match="cross_branch"):
        dataclasses.replace(config, cross_branch=CrossBranchConfig(dim=30, heads=4))


def test_a_config_written_before_directions_is_one_of_both():
    values = preset("tiny").to_dict()
    assert "direction" not in values["coupling"]
    assert WorldConfig.from_dict(values) == preset("tiny")
    one_way = dataclasses.replace(preset("tiny"), cross_branch=CrossBranchConfig(dim=96, heads=4, direction="to_video"))
    assert WorldConfig.from_json(one_way.to_json()) == one_way
    values["coupling"]["direction"] = "sideways"
    with pytest.raises((ValueError, TypeError), match="direction"):  # the type checker of the tests comes first
        WorldConfig.from_dict(values)


def test_names_in_stored_configs_stay():
    values = preset("small_world").to_dict()
    assert {"coupling", "pcb_blocks"} < set(values)
    assert values["geometry"]["registers"] == 4
    assert values["compat"]["coupling_placement"] == "before_mlp"
    assert WorldConfig.from_dict(values) == preset("small_world")
