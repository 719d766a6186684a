"""Processes that divide every sample (compute.sequence), also with hybrid shards, train what one process trains."""

import subprocess
import sys
from pathlib import Path

import pytest

from fw_train.config.load import from_mapping
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.engine.checkpoint import read
from fw_train.engine.run_log import read_log
from fw_train.plan.plan import make_plan

DRIVER = Path(__file__).with_name("shard_driver.py")


@pytest.fixture(scope="module")
def work(dataset: Path, mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("sequence")
    words = [sys.executable, str(DRIVER), str(work), str(dataset), str(mini), "sequence"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return work


def values(run: Path, split: str, key: str) -> list[float]:
    return [row[key] for row in read_log(run) if row.get("split") == split]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), [("stage1", "four"), ("stage2", "two"), ("stage2", "four")])
def test_divided_samples_train_what_whole_ones_train(work: Path, stage: str, name: str) -> None:
    one, many = work / f"{stage}-one", work / f"{stage}-{name}"
    for split, key in (("train", "loss"), ("train", "gradient_norm"), ("val", "loss")):
        assert len(values(one, split, key)) >= 2
        assert values(many, split, key) == pytest.approx(values(one, split, key), rel=1e-5)
    a, b = (read(run / "checkpoints" / "step-00000002").tensors["optimizer"] for run in (one, many))
    assert a.keys() == b.keys()
    for key, moment in a.items():  # sums of gradients
        assert float((b[key] - moment).abs().max()) <= 1e-6, key


def test_the_plan_of_a_divided_sample_has_less_activations_and_as_much_work() -> None:
    """Without heads, whose up-sampling in time every process repeats."""
    tree = {"model": "wan21_fun_1_3b", "batch": 1, "loss": {"geometry": 0}}
    config = from_mapping(tree, TrainConfig(stage="stage2"))
    config = from_mapping({"clip": {"frames": 81, "height": 336, "width": 592}}, config)
    whole = make_plan(config, gpus=1)
    half = make_plan(from_mapping({"compute": {"sequence": 2}}, config), gpus=2)
    assert half.memory["activations"] == pytest.approx(whole.memory["activations"] / 2, rel=0.1)
    assert half.flops == pytest.approx(whole.flops, rel=0.1)
    with pytest.raises(ConfigError, match=r"compute\.sequence = 2 does not divide the number of GPUs, 3"):
        make_plan(from_mapping({"compute": {"sequence": 2}}, config), gpus=3)
