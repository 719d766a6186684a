"""`fw plan generate`: the table, JSON, presets and checkpoints, and what it refuses."""

import json

import pytest

from fw_app.cli import main

SIZE = ["--num-frames", "5", "--height", "32", "--width", "48"]


def test_a_preset_and_the_shipped_weights_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "generate", "tiny", *SIZE]) == 0
    said = capsys.readouterr().out
    assert "tiny: 5 frames of 48x32, bfloat16" in said
    assert "fits on a card of 24 GiB" in said
    assert main(["plan", "generate", *SIZE, "--dtype", "float32", "--offload", "block", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert set(plan["phases_bytes"]) == {"encode", "denoise", "decode"}
    assert plan["tensors_bytes"] == max(sum(labels.values()) for labels in plan["phases_bytes"].values())
    assert plan["fits"] == {"24 GiB": True, "48 GiB": True, "80 GiB": True}
    assert plan["total_gib"] > plan["tensors_bytes"] / 2**30


def test_unusable_requests_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "generate", "nothing", *SIZE]) == 2
    assert "nothing" in capsys.readouterr().err
    assert main(["plan", "generate", "tiny", *SIZE, "--parallel", "0"]) == 2
    assert "use 1 or more" in capsys.readouterr().err
    assert main(["plan", "generate", "tiny", "--num-frames", "6"]) == 2
    assert "6" in capsys.readouterr().err
