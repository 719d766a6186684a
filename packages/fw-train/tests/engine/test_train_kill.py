"""kill -9 at twelve places, inside saves too: every resumed run ends in the bits of the uninterrupted one."""

import json
import subprocess
import sys
from pathlib import Path

DRIVER = Path(__file__).with_name("kill_driver.py")


def test_a_killed_and_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), "5"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0]["killed"] == "never"
    assert len(rows) == 13
    assert [row["killed"] for row in rows if row["sha256"] != rows[0]["sha256"]] == []
