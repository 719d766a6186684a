"""`fw generate` under torchrun: two processes make one world; wrong numbers of processes are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fw_app.generate import join_processes
from fw_app.options import GenerateOptions

SMALL = "--num-frames 5 --width 64 --height 48 --num-inference-steps 2 --guidance-scale 3 --seed 3"


def test_two_processes_make_one_world(tmp_path: Path) -> None:
    """Guidance divides the passes over the processes, which changes no bit; only the first writes."""
    program = ["-m", "fw_app.cli", "generate", "example:room-1", "--device", "cpu", *SMALL.split()]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    for name, launcher in (("one", []), ("two", torchrun)):
        words = [sys.executable, *launcher, *program, "--out", str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("written to") == 1
    one, two = tmp_path / "one", tmp_path / "two"
    assert sorted(p.name for p in one.rglob("*")) == sorted(p.name for p in two.rglob("*"))
    clouds = [path.relative_to(one) for path in one.rglob("*.ply")]
    assert clouds
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in clouds)


def test_a_group_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = GenerateOptions(out=tmp_path, parallel=3)
    with pytest.raises(ValueError, match="--parallel 3 does not divide the number of processes, 1"):
        join_processes(options)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="number of processes, 4; start the command with torchrun"):
        join_processes(options)
    assert join_processes(GenerateOptions(out=tmp_path, batch=tmp_path / "rows.jsonl")) is None
