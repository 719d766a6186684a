"""`fw-train release`: chains of real runs, on a dataset or on rooms, end as float16 weights with a true model card."""

import hashlib
import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fw_data.options import AnnotateOptions
from fw_model.checkpoints.checkpoint import load_world
from fw_model.pipeline.components import load_components
from fw_model.pipeline.pipeline import WorldPipeline
from fw_train.cli import main
from fw_train.config.flags import override
from fw_train.config.load import changed_keys, load
from fw_train.config.schema import Cadence, ClipConfig, ConfigError, Stage
from fw_train.release.release import ReleaseOptions, release
from fw_train.tasks.train import read_run, train

STAGES: tuple[Stage, ...] = ("autoencoder", "base", "stage1", "stage2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, mini: Path) -> Path:
    """A folder with toy videos, their data set, and the four runs on it, a step or two each."""
    from fw_data.cli import main as fw_data

    root = tmp_path_factory.mktemp("release")
    toy = ["toy", f"{root}/toy", "--clips", "6", "--takes", "3", "--frames", "5", "--size", "48x32", "--seed", "3"]
    oracle = ["--geometry", "oracle", "--truth", f"{root}/toy/truth", "--duplicate-bits", "-1", "--min-motion", "0"]
    for words in (toy, ["annotate", f"{root}/toy/raw", f"{root}/dataset", *oracle, "--workers", "0"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["fw-data", *words])
            assert not fw_data(words)
    before: Path | None = None
    for stage in STAGES:
        before = _train(stage, root / "dataset", before, root / "runs" / stage, mini)
    return root


@pytest.fixture(scope="module")
def shipped(made: Path) -> Path:
    _release(made / "runs/stage2", made / "small")
    return made / "small"


def _release(run: Path, out: Path) -> None:
    assert main(["release", str(run), str(out)]) == 0


def _train(stage: Stage, data: Path, init: Path | None, out: Path, model: Path) -> Path:
    """A run of two steps on 5 frames of 48x32."""
    clip = ClipConfig(
        frames=5, height=32, width=48, random_start=False, scale_by_first_frame=stage in ("stage1", "stage2")
    )
    config = replace(load("tiny", stage), model=str(model), data=data, out=out, init=init, steps=2, batch=2, clip=clip)
    train(replace(config, every=Cadence(log=1, validate=2, checkpoint=2)), quiet=True)
    return out


def test_the_weights_are_those_of_the_export_rounded_to_float16(made: Path, shipped: Path) -> None:
    exported, stored = (load_world(folder) for folder in (made / "runs/stage2/export", shipped))
    for name, value in exported.named_parameters():
        torch.testing.assert_close(stored.get_parameter(name).float(), value.half().float(), rtol=0, atol=0)
    with safe_open(shipped / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118
    assert {p.dtype for p in WorldPipeline.from_pretrained(shipped).world.parameters()} == {torch.float32}
    half, whole = ((f / "vae/model.safetensors").stat().st_size for f in (shipped, made / "runs/stage2/export"))
    assert half < 0.6 * whole
    video = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    first, second = (load_components(f).autoencoder.encode(video) for f in (made / "runs/stage2/export", shipped))
    torch.testing.assert_close(first, second, rtol=0.02, atol=0.02)


def test_the_card_gives_the_commands_that_made_it(made: Path, shipped: Path) -> None:
    card = (shipped / "README.md").read_text()
    assert str(made) not in card
    lines = [shlex.split(line) for line in card.splitlines() if line.startswith("fw-")]
    annotate, *trainings = lines
    assert {"--geometry", "--duplicate-bits", "--min-motion"} <= set(annotate)
    known = {field.name.replace("_", "-") for field in fields(AnnotateOptions)}
    assert {word[2:] for word in annotate if word.startswith("--")} <= known
    for words, stage in zip(trainings, ("autoencoder", "base", "stage1", "stage2"), strict=True):
        assert words[1:3] == [stage, "tiny"]
        again = override(load("tiny", stage), words[3:], prog="fw-train")
        assert set(changed_keys(again, read_run(made / "runs" / stage))) <= {"data", "out", "init", "model"}


def test_the_card_has_the_figures_of_the_logs_and_the_sums_of_the_files(made: Path, shipped: Path) -> None:
    card = (shipped / "README.md").read_text()
    for stage in ("autoencoder", "base", "stage1", "stage2"):
        run = made / "runs" / stage
        assert hashlib.sha256((run / "config.json").read_bytes()).hexdigest() in card
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        measured = [row for row in rows if row.get("split") == "val"]
        assert f"| loss | {measured[0]['loss']:.4g} | {measured[-1]['loss']:.4g} |" in card
    assert "psnr/block_dct" in card
    for name in ("model.safetensors", "vae/model.safetensors", "config.json", "pipeline.json"):
        assert f"| {hashlib.sha256((shipped / name).read_bytes()).hexdigest()} |" in card
    assert re.search(r"\| source videos \| 6 \|", card)
    assert "5 frames of 48x32" in card
    assert "trained_on" not in json.loads((shipped / "pipeline.json").read_text())


def test_a_model_of_rooms_records_its_domain_and_can_start_the_next(mini: Path, tmp_path: Path) -> None:
    base = _train("base", Path("rooms:0-9"), None, tmp_path / "base", mini)
    _release(base, tmp_path / "first")
    assert WorldPipeline.from_pretrained(tmp_path / "first").trained_on == "rendered rooms"
    card = (tmp_path / "first/README.md").read_text()
    assert "fw-train base tiny --data rooms:0-9 --out runs/base" in card
    assert "photograph" in card
    stage1 = _train("stage1", Path("rooms:0-9"), tmp_path / "first", tmp_path / "stage1", mini)
    _release(stage1, tmp_path / "second")
    card = (tmp_path / "second/README.md").read_text()
    assert f"| earlier (base) | 2 |  |  | {read_run(base).digest()} |" in card
    assert "from earlier weights" in card


def test_invalid_inputs_are_refused(made: Path, shipped: Path, tmp_path: Path) -> None:
    del shipped
    run = made / "runs" / "stage2"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="full"):
        release(ReleaseOptions(run=run, out=tmp_path / "full"))
    with pytest.raises(ConfigError, match="export"):
        release(ReleaseOptions(run=tmp_path, out=tmp_path / "out"))


def test_an_export_of_other_runs_is_refused(made: Path, tmp_path: Path) -> None:
    path = made / "runs" / "stage1" / "config.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"seed": 99}))
        with pytest.raises(ConfigError, match="stage"):
            release(ReleaseOptions(run=made / "runs" / "stage2", out=tmp_path / "out"))
    finally:
        path.write_text(before)


def test_a_released_stage_2_is_a_start_for_more_base_training(
    made: Path, shipped: Path, tmp_path: Path, mini: Path
) -> None:
    base = _train("base", made / "dataset", shipped, tmp_path / "base", mini)
    before, after = load_world(shipped, dtype=torch.float32), load_world(base / "export", dtype=torch.float32)
    changed = {name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert changed
    assert {before.parameter_group(name) for name in changed} == {"video"}
    with pytest.raises(ConfigError, match="stage1"):
        _train("stage2", made / "dataset", base, tmp_path / "stage2", mini)
