"""A sharded run starts from the files with the bits of the whole model; no process reads more than its rows."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from fw_model.config import WorldConfig

DRIVER = Path(__file__).with_name("start_driver.py")


def test_shards_that_are_read_alone_equal_those_of_the_whole_model(dataset: Path, mini: Path, tmp_path: Path) -> None:
    config = WorldConfig.from_json(mini.read_text())
    wider = dataclasses.replace(config.geometry, width=2 * config.geometry.width)
    other = tmp_path / "other.json"
    other.write_text(dataclasses.replace(config, name="other", geometry=wider).to_json())
    words = [sys.executable, str(DRIVER), *(str(path) for path in (tmp_path, dataset, mini, other))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 8
    for row in rows:
        assert row["apart"] == [], row["start"]
        assert row["prints"] == 1  # the same hash of the frozen weights
        if row["start"] == "checkpoint":
            assert row["read"] == row["held"]
        elif row["start"] == "random":
            assert row["read"] == 0
        else:
            assert 0 < row["read"] < row["held"]  # adapters, or another geometry branch, are new
