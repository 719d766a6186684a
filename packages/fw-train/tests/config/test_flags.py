"""The flags of every stage: few, all of them read by the stage, each with an effect or an error; others are refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fw_train.config.check import check
from fw_train.config.flags import flags, override
from fw_train.config.keys import READ_BY, WITHOUT_FLAG, readers
from fw_train.config.load import from_json, from_mapping, load
from fw_train.config.schema import STAGES, ConfigError, Stage, TrainConfig, leaves
from fw_train.model_bundle import check_start, unread_by_model

CHANGED: dict[str, Any] = {
    "model": "small_world",
    "launcher": "torchrun",
    "lora.targets": ("ffn",),
    "loss.depth.space": "log",
    "loss.points.error": "plain",
    "loss.camera.kind": "l1",
    "noise.scheme": "uniform",
    "noise.weighting": "bell",
    "noise.validation": (0.3,),
    "optim.schedule": "constant",
    "optim.betas": (0.8, 0.9),
    "compute.device": "cpu",
    "compute.precision": "bf16",
    "compute.frozen_dtype": "bf16",
    "compute.shard": "full",
    "compute.activation_checkpointing": "full",
    "clip.frames": 21,
    "clip.height": 80,
    "clip.width": 80,
    "wandb": "project",
    "skip": ("clip-03",),
    "clip.frame_buckets": (9,),
}
"""Another valid value of the keys whose value is not a number, a switch or a path."""
NEEDS: dict[str, dict[str, Any]] = {
    "workers": {"launcher": "torchrun"},
    "restarts": {"launcher": "torchrun"},
    "lora.alpha": {"lora": {"rank": 4}},
    "lora.targets": {"lora": {"rank": 4}},
    "clip.reuse": {"clip": {"pool": 8}},
    "clip.max_crop": {"clip": {"aspect_buckets": True}},
    "loss.dense_frames": {"loss": {"depth": {"temporal": 0.0}}},
    "compute.frozen_dtype": {"compute": {"precision": "bf16"}},
    "compute.offload_activations": {"compute": {"activation_checkpointing": "full"}},
    "compute.offload_blocks": {"compute": {"activation_checkpointing": "full"}},
}
"""Keys that are read only together with another one."""
KEYS = [key for key in leaves(TrainConfig()) if key not in ("stage", "recipe")]


def other(key: str, value: Any) -> Any:
    if key in CHANGED:
        return CHANGED[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 8 if key == "clip.pool" else 2 * value + (value == 0)
    if isinstance(value, float):
        return value / 2 or 0.5
    return "elsewhere"


def tree_of(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: list(value) if isinstance(value, tuple) else value}
    return value


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_at_most_40_flags(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        override(load("tiny", stage), ["--help"], prog="fw-train")
    assert done.value.code == 0
    shown = capsys.readouterr().out
    words = shown.replace("│", " ").split()
    listed = {word for word in words if word.startswith("--") and word.strip("-")}
    listed = {word.rstrip(",") for word in listed if not word.startswith("--no-") and ".no-" not in word} - {"--help"}
    assert listed == {"--set", *(f"--{key.replace('_', '-')}" for key in flags(stage))}
    assert len(listed) <= 40


def test_the_tables_name_keys_that_exist() -> None:
    keys = list(leaves(TrainConfig()))
    for name in (*READ_BY, *WITHOUT_FLAG):
        assert [key for key in keys if key == name or key.startswith(f"{name}.")], name


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_an_effect_or_is_refused(stage: Stage, key: str) -> None:
    """A key that the stage reads changes what the run resolves to, or needs another key; others are refused by name."""
    start = load("tiny", stage)
    change = tree_of(key, other(key, leaves(start)[key]))
    if stage not in readers(key):
        with pytest.raises(ConfigError, match=rf"{key}.*{stage}.*{readers(key)[0]}"):
            from_mapping(change, start)
        flag = f"--{key.replace('_', '-')}"
        with pytest.raises(ConfigError, match=rf"{flag}.*{readers(key)[0]}"):
            override(start, [flag, "1"], prog="fw-train")
        return
    alone = key in ("compute.frozen_dtype", "compute.offload_blocks") or (key.startswith("lora.") and start.lora.rank)
    if key in NEEDS and not alone:
        with pytest.raises(ConfigError, match=key):
            check(from_mapping(change, start))
    before = check(from_mapping(NEEDS.get(key, {}), start))
    after = check(from_mapping(change, before))
    changes_weights = after.digest() != before.digest()
    free = ("model", "data", "out", "init", "go_on", "wandb", "launcher", "workers", "restarts")
    free += (
        "skip",
        "clip.cache_gb",
        "clip.num_workers",
        "clip.encode_first",
        "compute.threads",
        "compute.offload_optimizer",
        "compute.offload_blocks",
        "compute.offload_activations",
        "compute.sequence",
        "compute.shard",
        "compute.activation_checkpointing",
    )
    # skip changes them too, and is compared on its own, because it may grow
    assert changes_weights == (key not in free and not key.startswith(("every.", "sampling."))), key


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        ("base", "dropout.camera", 0.5),
        ("base", "clip.scale_by_first_frame", True),
        ("stage1", "dropout.camera", 0.5),
    ],
)
def test_a_key_that_the_model_does_not_read_is_refused(stage: Stage, key: str, value: Any) -> None:
    config = from_mapping(tree_of(key, value), load("tiny", stage))
    with pytest.raises(ConfigError, match=rf"{key}.*'tiny'"):
        check_start(config)
    assert unread_by_model(dataclasses.replace(config, model="small_world")) == []


def test_keys_without_a_flag_are_set_by_name() -> None:
    config = override(
        load("tiny", "stage1"), ["--set", "loss.depth.gradient=2", "--set", 'noise.scheme="mode"'], prog="fw-train"
    )
    assert (config.loss.depth.gradient, config.noise.scheme) == (2.0, "mode")
    with pytest.raises(ConfigError, match=r"--set clip\.cache_gb"):
        override(config, ["--clip.cache-gb", "3"], prog="fw-train")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        override(config, ["--set", "clip.cache_gb"], prog="fw-train")
    with pytest.raises(ConfigError, match=r"clip\.cache_bg.*clip\.cache_gb"):
        override(config, ["--set", "clip.cache_bg=1"], prog="fw-train")


def test_an_old_run_keeps_its_identity_and_drops_keys_without_meaning(tmp_path: Path) -> None:
    """A config.json of a version in which every stage had every key, with the digest that its checkpoints hold."""
    old = json.loads((Path(__file__).parent / "old_config.json").read_text())
    config = from_json(old["config"])
    assert check(config).digest() == old["digest"]
    assert (config.noise.weighting, config.dropout.cross_branch, config.loss.geometry) == ("none", 0.0, 1.0)
    assert config.loss.camera.weight == old["config"]["loss"]["camera"]
    assert dict(config.unread)["noise.weighting"] == "bell"
    assert (config.sampling.num_inference_steps, config.sampling.guidance_scale) == (30, 1.5)
    assert dict(config.unread)["dropout.cross_branch"] == 0.3
    assert from_json(config.to_json()) == config
    assert from_json(config.to_json()).digest() == old["digest"]
