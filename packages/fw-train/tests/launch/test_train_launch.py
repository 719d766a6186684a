"""Launchers: the command lines they make, commands that start or resume, and what Ray's workers do, without Ray."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fw_data.dataset.reader import ClipDataset
from fw_train.cli import main
from fw_train.config.check import check
from fw_train.config.load import from_mapping
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.engine.run_log import read_log
from fw_train.launch import launch
from fw_train.launch import ray as ray_launcher
from fw_train.tasks.train import prepare, train


@pytest.fixture
def run(dataset: Path, mini: Path, tmp_path: Path) -> TrainConfig:
    tree = {
        "data": str(dataset),
        "model": str(mini),
        "out": str(tmp_path / "run"),
        "steps": 2,
        "batch": 2,
        "clip": {"frames": 5, "height": 32, "width": 48, "validate_on": 1},
        "noise": {"validation": [0.5]},
        "compute": {"threads": 1},
    }
    return from_mapping(tree, TrainConfig(stage="base"))


def words(run: TrainConfig) -> list[str]:
    shape = ["--clip.frames", "5", "--clip.height", "32", "--clip.width", "48", "--set", "clip.validate_on=1"]
    paths = ["--data", str(run.data), "--model", run.model, "--out", str(run.out)]
    return ["base", "tiny", *paths, *shape, "--steps", "2", "--batch", "2", "--compute.threads", "1"]


def test_torchrun_gets_the_same_words_and_the_environment_that_restarts_need(
    run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def execve(*arguments: Any) -> None:
        seen.append(arguments)
        raise SystemExit(0)  # the real one does not return either

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(SystemExit):
        main([*words(run), "--launcher", "torchrun", "--workers", "2"])
    ((program, command, environment),) = seen
    assert (program, environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"]) == (sys.executable, "1")
    assert {"--nproc-per-node=2", "--max-restarts=3"} <= set(command)
    repeated = command[command.index("fw_train.cli") + 1 :]
    assert repeated[:-7] == [*words(run), "--launcher", "torchrun", "--workers", "2"]
    assert repeated[-7:] == ["--launcher", "local", "--workers", "1", "--restarts", "3", "--go-on"]


def test_go_on_starts_a_run_and_then_resumes_it(run: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("base on cpu", "resuming from"):
        assert main([*words(run), "--go-on"]) == 0
        assert line in capsys.readouterr().out
    assert main(words(run)) == 2
    assert "--go-on" in capsys.readouterr().err
    assert main([*words(run), "--go-on", "--seed", "3"]) == 2
    assert "change seed" in capsys.readouterr().err


def test_what_cannot_be_launched_is_refused(run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="launcher"):
        check(dataclasses.replace(run, workers=2))
    with pytest.raises(ConfigError, match="--out"):
        launch(dataclasses.replace(run, launcher="torchrun", out=None), [])
    with pytest.raises(ConfigError, match="launcher"):
        train(dataclasses.replace(run, launcher="ray"))
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(ConfigError, match=r"fw-train\[ray\]"):
        launch(dataclasses.replace(run, launcher="ray"), [])
    assert run.out is not None
    assert not run.out.exists()


def test_a_ray_worker_trains_and_leaves_what_it_refuses_in_a_file(run: TrainConfig, tmp_path: Path) -> None:
    assert run.out is not None
    ray_launcher.work({"run": dataclasses.replace(run, go_on=True).to_json()})
    refusal = run.out / "ray" / "refused.json"
    outcome = ray_launcher._outcome(run.out, refusal)
    assert (outcome.result.status, outcome.result.step) == ("finished", 2)
    assert outcome.export == run.out / "export"
    ray_launcher.work({"run": dataclasses.replace(run, go_on=True, seed=4).to_json()})
    assert json.loads(refusal.read_text())["kind"] == "ConfigError"
    with pytest.raises(ConfigError, match="seed"):
        ray_launcher._outcome(run.out, refusal)


def test_a_batch_that_does_not_fit_the_processes_is_refused_before_the_model_is_loaded(run: TrainConfig) -> None:
    assert run.out is not None
    ctx = Context(store=CheckpointStore(run.out / "checkpoints"), device=torch.device("cpu"), world_size=3)
    with pytest.raises(ConfigError, match=r"batch = 2 .*3 processes.*accumulate = 1.*3"):
        prepare(dataclasses.replace(run, init=Path("nowhere")), ctx)


def test_a_nan_in_a_sample_names_the_clip_and_exits_3(
    run: TrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fw_train.data.samples import Sample, SampleSource
    from fw_train.data.split import split_clips

    assert run.data is not None
    assert run.out is not None
    record = split_clips(ClipDataset(run.data).records, run.clip).train[5]
    original = SampleSource.load

    def load(self: SampleSource, clip_id: str, start: int) -> Sample:
        sample = original(self, clip_id, start)
        return dataclasses.replace(sample, latents=sample.latents * float("nan")) if clip_id == record.id else sample

    monkeypatch.setattr(SampleSource, "load", load)
    assert main([*words(run), "--steps", "12"]) == 3
    error = capsys.readouterr().err
    assert f"--skip {record.id}" in error
    report = json.loads((run.out / "diverged.json").read_text())
    assert [row["loss"] == "nan" for row in report["batch"]].count(True) == 1
    assert [row["event"] for row in read_log(run.out)[-2:]] == ["diverged", "saved"]


def test_sharding_one_process_warns(run: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(from_mapping({"compute": {"shard": "full"}}, run))
    assert "compute.shard = full" in capsys.readouterr().out
