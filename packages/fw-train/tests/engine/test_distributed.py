"""Two gloo processes against one, twenty steps with accumulation and clipping: the same weights but for rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fw_train.engine.checkpoint import read
from fw_train.engine.run_log import read_log

DRIVER = Path(__file__).with_name("rank_driver.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("ranks")
    words = [sys.executable, str(DRIVER), str(work)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return work


@pytest.mark.parametrize("how", ["two", "sharded", "mixed", "mixed-sharded", "other-size", "hybrid", "grown"])
def test_two_processes_train_what_one_does_and_may_take_over_from_it(runs: Path, how: str) -> None:
    names = ("grown-one" if how == "grown" else "one", how)
    folders = [runs / name / "checkpoints" / "step-00000020" for name in names]
    for stem in ("model", "ema", "optimizer"):
        alone, other = (read(folder).tensors[stem] for folder in folders)
        assert alone.keys() == other.keys()
        for name in alone:
            torch.testing.assert_close(other[name], alone[name], rtol=0, atol=1e-6)
    losses = [[r["loss"] for r in read_log(runs / name) if r.get("split") == "train"] for name in names]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
