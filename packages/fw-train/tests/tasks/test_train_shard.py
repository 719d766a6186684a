"""The world model sharded over two gloo processes (FSDP2) trains what one trains; see also test_train_parallel."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fw_model.checkpoints.checkpoint import load_world
from fw_train.config.load import from_mapping
from fw_train.engine.checkpoint import read
from fw_train.engine.run_log import read_log
from fw_train.tasks.train import read_run, train

DRIVER = Path(__file__).with_name("shard_driver.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(dataset: Path, mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("shard")
    words = [sys.executable, str(DRIVER), str(work), str(dataset), str(mini)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr
    return work


def worst(one: Path, two: Path, step: int, stem: str) -> float:
    """Largest difference between two runs' checkpoints of a step."""
    a, b = (read(run / "checkpoints" / f"step-{step:08d}").tensors[stem] for run in (one, two))
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def drift(one: Path, two: Path, start: Path, step: int, stem: str) -> float:
    """Distance between the weights of two runs, relative to how far they moved.

    Single weights may differ: Adam turns a rounding error in a near-zero gradient into a full step.
    """
    a, b = (read(run / "checkpoints" / f"step-{step:08d}").tensors[stem] for run in (one, two))
    before = load_file(start / "model.safetensors")
    apart = sum(float((a[name] - b[name]).double().square().sum()) for name in a)
    return (apart / sum(float((a[name] - before[name]).double().square().sum()) for name in a)) ** 0.5


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_log(run) if row.get("split") == "train"]


@pytest.mark.parametrize(("stage", "steps"), [("stage1", 2), ("stage2", 4)])
def test_two_shards_train_what_one_process_trains(work: Path, stage: str, steps: int) -> None:
    one, two = work / f"{stage}-one", work / f"{stage}-two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    assert len(losses(one)) == steps
    assert worst(one, two, steps, "optimizer") <= 1e-6
    for stem in ("model", "ema"):
        assert drift(one, two, work / "init", steps, stem) <= 1e-2


def test_samples_are_drawn_and_the_export_keeps_what_was_frozen(work: Path) -> None:
    run = work / "stage2-two"
    assert [p.name for p in sorted((run / "samples").iterdir())] == ["step-00000002.png", "step-00000004.png"]
    before, after = load_world(work / "init"), load_world(run / "export")
    for name, value in after.named_parameters():
        if after.parameter_group(name) != "cross_branch":
            assert torch.equal(value, before.get_parameter(name)), name


def test_no_rank_gives_up_while_another_exports(dataset: Path, mini: Path, tmp_path: Path) -> None:
    """The export takes 15 s, collectives of the process group may take 12 s; validation and previews are split."""
    driver, out = DRIVER.with_name("slow_export_driver.py"), tmp_path / "run"
    words = [sys.executable, str(driver), str(out), str(dataset), str(mini)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert load_world(out / "export").config.name == "mini"
    one = tmp_path / "one"
    config = from_mapping({"out": str(one)}, read_run(out))
    train(config, quiet=True)
    rows = [[row for row in read_log(run) if row.get("split") == "val"] for run in (out, one)]
    assert len(rows[0]) == len(rows[1]) == 2
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys()
        assert [ours[name] for name in theirs if name != "split"] == pytest.approx(
            [value for name, value in theirs.items() if name != "split"], rel=1e-5
        )
    images = [np.asarray(Image.open(run / "samples" / "step-00000001.png")).astype(int) for run in (out, one)]
    assert images[0].shape == images[1].shape
    assert np.abs(images[0] - images[1]).mean() < 0.5
