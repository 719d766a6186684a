"""Checkpoints that two processes write together: kill -9 inside saves, damaged parts, and a disk that refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, Snapshot, defect, read
from fw_train.engine.checkpoint_files import PartRows, open_tensors

DRIVER = Path(__file__).with_name("parts_driver.py")
WHOLE = torch.arange(35.0).view(7, 5)


def test_a_run_killed_inside_a_save_of_parts_resumes_to_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(DRIVER), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 6
    assert [row["killed"] for row in rows if row["sha256"] != rows[0]["sha256"]] == []
    parts = [f"{stem}-0000{i}-of-00002.safetensors" for stem in ("ema", "model", "optimizer") for i in (1, 2)]
    assert all(row["files"] == sorted([*parts, "manifest.json", "state.json"]) for row in rows)
    assert all(row["left"] == [] for row in rows)


def part(number: int, rows: PartRows) -> Snapshot:
    tensors = {"w": WHOLE[rows[0] : rows[1]]}
    if number == 0:
        tensors["count"] = torch.tensor(3)
    return Snapshot(tensors={"model": tensors}, state={"step": 1}, rows={"model": {"w": rows}}, part=number, parts=2)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    store = CheckpointStore(tmp_path)
    assert store.prepare(1)
    files = {**store.write(part(1, (4, 7, 7))), **store.write(part(0, (0, 4, 7)))}
    return store.commit({"step": 1}, files)


def test_parts_read_back_whole_and_by_rows(stored: Path) -> None:
    assert defect(stored) is None
    assert torch.equal(read(stored).tensors["model"]["w"], WHOLE)
    assert int(read(stored).tensors["model"]["count"]) == 3
    tensors = open_tensors(stored)["model"]
    for first in range(7):
        for last in range(first, 8):
            target = torch.full((last - first, 5), -1.0)
            tensors.copy_rows("w", (first, last), target)
            assert torch.equal(target, WHOLE[first:last])


def test_a_missing_or_damaged_part_is_a_defect(stored: Path) -> None:
    file = stored / "model-00002-of-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "model-00002" in str(defect(stored))
    shares = [defect(stored, share=(number, 2)) for number in range(2)]  # one of two processes reads this file
    assert len([reason for reason in shares if reason is not None]) == 1
    file.unlink()
    assert "is missing" in str(defect(stored))
    with pytest.raises(ValueError, match="rows of 'w' are missing"):
        open_tensors(stored)


def test_a_part_that_cannot_be_written_leaves_the_earlier_checkpoint(stored: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(28, f"No space left on device: {path.name}")

    store = CheckpointStore(stored.parent, on_write=full)
    again = Snapshot(tensors={"model": {"w": WHOLE}}, state={"step": 2})
    with pytest.raises(CheckpointError, match="No space left"):
        store.save(again)
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]
