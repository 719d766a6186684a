"""Two gloo processes against one: the same data order, the same weights but for rounding, also across a change."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

DRIVER = Path(__file__).with_name("rank_driver.py")


def test_two_processes_train_what_one_does_and_may_take_over_from_it(tmp_path: Path) -> None:
    words = [sys.executable, str(DRIVER), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    alone, together, mixed = (
        load_file(tmp_path / name / "checkpoints" / "step-00000012" / "model.safetensors")
        for name in ("one", "two", "mixed")
    )
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=1e-6)
        torch.testing.assert_close(mixed[name], alone[name], rtol=0, atol=1e-6)
