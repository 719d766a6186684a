"""Datasets, checkpoints and runs that were written before the source tree was reorganized still load and resume."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fw_data import ClipDataset
from fw_model import FantasyWorld

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "before_move"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the fixtures, with the paths of the run's configuration pointing into the copy."""
    folder = tmp_path / "old"
    shutil.copytree(FIXTURES, folder)
    config = folder / "stopped" / "config.json"
    config.write_text(config.read_text().replace('"@/', f'"{folder}/'))
    return folder


def command(module: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_old_dataset_is_valid_and_annotating_it_again_adds_only_the_new_video(old: Path) -> None:
    command("fw_data.cli", "validate", str(old / "dataset"))
    before = ClipDataset(old / "dataset")
    assert len(before) == 3
    shard = (old / "dataset" / before.records[0].shard).read_bytes()
    filters = ("--min-motion", "--min-sharpness", "--min-contrast", "--min-brightness", "--max-overlay")
    command(
        *("fw_data.cli", "annotate", str(old / "toy" / "raw"), str(old / "dataset"), "--workers", "0"),
        *("--geometry", "oracle", "--truth", str(old / "toy" / "truth"), "--duplicate-bits", "-1"),
        *(word for option in filters for word in (option, "0")),
    )
    after = ClipDataset(old / "dataset")
    assert len(after) == 4
    assert (old / "dataset" / before.records[0].shard).read_bytes() == shard
    assert {record.id for record in before.records} < {record.id for record in after.records}
    assert after.load(3).video.shape == (6, 32, 48, 3)


def test_an_old_run_resumes_to_the_weights_it_would_have_ended_with(old: Path) -> None:
    run = old / "stopped"
    saved = load_file(run / "checkpoints" / "step-00000010" / "ema.safetensors")
    assert "result:" in command("fw_train.cli", "resume", str(run))
    ended, resumed = load_file(old / "ended.safetensors"), load_file(run / "export" / "model.safetensors")
    assert ended.keys() == saved.keys()
    assert max(float((saved[name] - ended[name]).abs().max()) for name in ended) > 1e-3  # there was something to do
    for name, value in ended.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    assert FantasyWorld.from_pretrained(run / "export").config.name == "before-move"
