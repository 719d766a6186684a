"""Trackers: Weights & Biases gets every number and image under one id; asking for it where it is not is refused."""

import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.engine import trackers
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.engine.loop import run
from fw_train.engine.trackers import TensorBoard, check_trackers


class FakeRun:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.finished = False

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, row: dict[str, Any]) -> None:
        assert not self.finished
        self.rows.append(row)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], FakeRun]]:
    """A stand-in for the package; the list has the arguments of every init and its run."""
    begun: list[tuple[dict[str, Any], FakeRun]] = []
    module: Any = ModuleType("wandb")

    def init(**words: Any) -> FakeRun:
        begun.append((words, FakeRun()))
        return begun[-1][1]

    module.init, module.Image = init, lambda path: f"image of {Path(path).name}"
    monkeypatch.setitem(sys.modules, "wandb", module)
    return begun


def test_weights_and_biases_gets_what_the_log_gets(
    config: TrainConfig, regression: Any, wandb: list[tuple[dict[str, Any], FakeRun]]
) -> None:
    out = config.out
    assert out is not None
    every = dataclasses.replace(config.every, sample=12)
    steady = dataclasses.replace(config.optim, schedule="constant")  # so that it may be made longer
    config = dataclasses.replace(config, wandb="worlds", every=every, optim=steady)
    ctx = Context(store=CheckpointStore(out / "checkpoints"), device=torch.device("cpu"))
    run(config, regression(), ctx, out=out, quiet=True)
    run(dataclasses.replace(config, steps=25), regression(), ctx, out=out, quiet=True)
    (first, one), (second, two) = wandb
    assert (first["project"], first["name"], first["resume"]) == ("worlds", "run", "allow")
    assert first["config"]["optim"]["lr"] == 0.02
    assert first["id"] == second["id"]
    assert one.finished
    assert two.finished
    assert [row["step"] for row in one.rows if "train/loss" in row] == [4, 8, 12, 16, 20, 24]
    assert [row["step"] for row in one.rows if "val/loss" in row] == [0, 12, 24]
    assert [row["samples"] for row in one.rows if "samples" in row] == [
        "image of step-00000012.png",
        "image of step-00000024.png",
    ]


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _name: None)
    check_trackers(TrainConfig())
    with pytest.raises(ConfigError, match=r"fw-train\[wandb\]"):
        check_trackers(TrainConfig(wandb="worlds"))


def test_tensorboard_takes_images(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    board = TensorBoard(tmp_path, 0)
    board.image(3, tmp_path / "a.png")
    board.close()
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    assert b"samples" in events.read_bytes()
