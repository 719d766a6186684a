"""Configuration: precedence, misspelled keys, values of the wrong type, and what a resume may change."""

import dataclasses
import json
from pathlib import Path

import pytest

from fw_model.checkpoints.shipped import shipped_weights
from fw_train.config.check import check
from fw_train.config.flags import override
from fw_train.config.load import absolute, changed_keys, check_resume, from_json, from_mapping, load
from fw_train.config.schema import ConfigError, TrainConfig


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return str(path)


def test_command_line_beats_file_beats_recipe_beats_default(tmp_path: Path) -> None:
    recipe = load("tiny", "stage1")
    file = load(toml(tmp_path, 'recipe = "tiny"\nsteps = 7\nbatch = 2\n[optim]\nlr = 0.5\n'), "stage1")
    final = override(file, ["--steps", "9"], prog="fw-train")
    default = TrainConfig()
    assert final.steps == 9
    assert (final.batch, final.optim.lr) == (2, 0.5)
    assert final.noise == recipe.noise
    assert recipe.noise != default.noise
    assert final.loss == default.loss
    assert changed_keys(file, final) == ["steps"]


def test_a_file_without_a_recipe_starts_from_the_defaults(tmp_path: Path) -> None:
    config = load(toml(tmp_path, 'data = "somewhere"\nnoise.validation = [0.5]\n'), "stage2")
    assert config == dataclasses.replace(
        TrainConfig(stage="stage2"),
        data="somewhere",
        noise=dataclasses.replace(TrainConfig().noise, validation=(0.5,)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes = 3", r"'stpes'.*'steps'"),
        ("[optim]\nlrr = 3.0", r"'optim.lrr'.*'optim.lr'"),
        ("lr = 3.0", r"'lr'.*'optim.lr'"),
        ("[optmi]\nlr = 3.0", r"'optmi'; did you mean 'optim'\?$"),
        ('steps = "3"', r"steps = '3'.*integer"),
        ("steps = 3.5", r"steps = 3\.5"),
        ("[optim]\nbetas = [0.9]", r"optim.betas = \[0.9\]"),
        ('[optim]\nschedule = "linear"', r"optim.schedule = 'linear'.*'constant' or 'cosine'"),
        ("optim = 3", r"\[optim\]"),
        ('recipe = "tinny"', r"'tiny'"),
        ('stage = "stage2"', r"run\.toml.*stage1"),
        ("steps = ", r"run\.toml.*TOML"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(toml(tmp_path, text), "stage1")


def test_unknown_sources_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiny"):
        load("somewhere", "stage1")
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load(str(tmp_path / "nowhere.toml"), "stage1")


def test_a_misspelled_flag_gets_one_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown flag --optim\.lrr; did you mean --optim\.lr\?$"):
        override(TrainConfig(), ["--optim.lrr", "3"], prog="fw-train")
    with pytest.raises(ConfigError, match=r"--clip\.cach-gb.*--set clip\.cache_gb=VALUE"):
        override(TrainConfig(), ["--clip.cach-gb=3"], prog="fw-train")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clip.frames", "16"], r"clip\.frames.*16.*17"),
        (["--clip.width", "100"], r"clip\.width.*100.*96"),
        (["--batch", "5", "--accumulate", "2"], "batch = 5.*accumulate = 2"),
        (["--set", "dropout.text=1.5"], r"dropout\.text = 1\.5"),
        (["--every.keep", "0"], r"every\.keep = 0.* 1"),
        (["--steps", "0"], "steps = 0"),
        (["--optim.lr", "-1"], r"optim\.lr = -1\.0"),
        (["--set", "noise.validation=[0.0]"], "noise.validation"),
        (["--set", "loss.camera.weight=-1.0"], r"loss\.camera\.weight"),
        (["--unfreeze-geometry"], "unfreeze.*stage1.*stage2"),
    ],
)
def test_values_no_run_could_use_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(override(load("tiny", "stage1"), words, prog="fw-train"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute.activation_checkpointing": "none"}, "offload_blocks = 2 needs compute.activation_checkpointing"),
        ({"compute.shard": "full"}, r"offload_blocks = 2 cannot .*shard = full"),
        ({"unfreeze_video": True}, "offload_blocks = 2 .*unfreeze_video"),
        ({"every.sample": 5}, r"offload_blocks = 2 .*every\.sample = 5"),
        ({"compute.offload_blocks": -1}, "offload_blocks = -1 .*at least 0"),
    ],
)
def test_blocks_that_cannot_be_offloaded_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    tree = {"compute.activation_checkpointing": "full", "compute.offload_blocks": 2, **changes}
    text = 'recipe = "tiny"\n' + "\n".join(f"{key} = {json.dumps(value)}" for key, value in tree.items())
    with pytest.raises(ConfigError, match=message):
        check(load(toml(tmp_path, text), "stage2"))


def test_the_name_of_another_trainer_is_understood() -> None:
    with pytest.raises(ConfigError, match=r"--blocks_to_swap; did you mean --set compute\.offload_blocks=VALUE\?$"):
        override(load("tiny", "stage2"), ["--blocks_to_swap", "20"], prog="fw-train")


@pytest.mark.parametrize("stage", ["base", "stage1", "stage2"])
def test_recipes_are_valid_and_survive_json(stage: str) -> None:
    config = check(load("tiny", stage))  # pyright: ignore[reportArgumentType]
    assert from_json(config.to_json()) == config


def test_the_digest_sees_the_mathematics_and_nothing_else() -> None:
    config = load("tiny", "stage1")
    for words in (["--out", "x"], ["--data", "y"], ["--every.log", "3"], ["--set", "clip.cache_gb=0.0"]):
        assert override(config, words, prog="p").digest() == config.digest()
    for words in (["--seed", "1"], ["--optim.lr", "1"], ["--batch", "2"], ["--clip.held-out", "0.5"]):
        assert override(config, words, prog="p").digest() != config.digest()


def test_resume_changes_cadence_but_not_the_mathematics() -> None:
    config = dataclasses.replace(load("tiny", "stage1"), optim=TrainConfig().optim, out=Path("run"))
    check_resume(config, override(config, ["--steps", "999", "--every.checkpoint", "1"], prog="p"))
    with pytest.raises(ConfigError, match=r"optim\.lr, seed|seed, optim\.lr"):
        check_resume(config, override(config, ["--optim.lr", "9", "--seed", "4"], prog="p"))
    cosine = load("tiny", "stage1")
    with pytest.raises(ConfigError, match=r"steps.*cosine"):
        check_resume(cosine, override(cosine, ["--steps", "999"], prog="p"))


def test_the_included_weights_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = from_mapping({"init": "small-world"}, load("tiny", "distill"))
    assert absolute(config).init == shipped_weights()
    (tmp_path / "small-world").mkdir()  # a folder of this name goes first
    assert absolute(config).init == tmp_path / "small-world"
