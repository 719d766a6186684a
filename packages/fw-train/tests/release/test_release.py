"""`fw-train release`: a chain of real runs on a real toy data set ends as float16 weights with a true model card."""

import hashlib
import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from fw_data.options import AnnotateOptions
from fw_model.checkpoints.checkpoint import load_world
from fw_model.pipeline.components import load_components
from fw_model.pipeline.pipeline import WorldPipeline
from fw_train.cli import main
from fw_train.config.flags import override
from fw_train.config.load import changed_keys, load
from fw_train.config.schema import Cadence, ClipConfig, ConfigError
from fw_train.release.release import ReleaseOptions, release
from fw_train.tasks.train import read_run, train


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
    before = None
    for stage in ("autoencoder", "base", "stage1", "stage2"):
        recipe = load("tiny", stage)
        config = replace(
            recipe,
            model=str(mini),
            data=root / "dataset",
            out=root / "runs" / stage,
            init=before,
            steps=2,
            batch=2,
            clip=ClipConfig(
                frames=5, height=32, width=48, random_start=False, scale_by_first_frame=stage in ("stage1", "stage2")
            ),
            every=Cadence(log=1, validate=2, checkpoint=2),
        )
        train(config, quiet=True)
        before = config.out
    return root


@pytest.fixture(scope="module")
def shipped(made: Path) -> Path:
    words = ["release", f"{made}/runs/stage2", f"{made}/small", "--videos", f"{made}/toy"]
    with pytest.raises(SystemExit) as code:
        main(words)
    assert code.value.code == 0
    return made / "small"


def test_the_weights_are_those_of_the_export_rounded_to_float16(made: Path, shipped: Path) -> None:
    exported, stored = (load_world(folder) for folder in (made / "runs/stage2/export", shipped))
    for name, value in exported.named_parameters():
        assert stored.get_parameter(name).dtype == torch.float16
        torch.testing.assert_close(stored.get_parameter(name), value.half(), rtol=0, atol=0)
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
    toy, annotate, *trainings = lines
    assert toy[:5] == ["fw-data", "toy", "toy", "--clips", "6"]
    assert toy[toy.index("--seed") + 1] == "3"
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
    assert re.search(r"\| worlds \| 2 \|", card)
    assert "5 frames of 32x48" in card


def test_what_cannot_be_vouched_for_is_refused(made: Path, shipped: Path, tmp_path: Path) -> None:
    del shipped
    run = made / "runs" / "stage2"
    with pytest.raises(ConfigError, match="toy"):
        release(ReleaseOptions(run=run, out=tmp_path / "out", videos=tmp_path))
    (tmp_path / "toy.json").write_text(json.dumps({"options": {"seed": 0}, "clips": [{"name": "other", "world": 0}]}))
    with pytest.raises(ConfigError, match="toy-000000"):
        release(ReleaseOptions(run=run, out=tmp_path / "out", videos=tmp_path))
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="full"):
        release(ReleaseOptions(run=run, out=tmp_path / "full", videos=made / "toy"))
    with pytest.raises(ConfigError, match="export"):
        release(ReleaseOptions(run=tmp_path, out=tmp_path / "out", videos=made / "toy"))


def test_an_export_of_other_runs_is_refused(made: Path, tmp_path: Path) -> None:
    path = made / "runs" / "stage1" / "config.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"seed": 99}))
        with pytest.raises(ConfigError, match="stage"):
            release(ReleaseOptions(run=made / "runs" / "stage2", out=tmp_path / "out", videos=made / "toy"))
    finally:
        path.write_text(before)
