"""Code of others by its name on the command line: captioners and geometry backends, in this process and in workers."""

import json
from pathlib import Path

import pytest

from fw_data import ClipDataset
from fw_data.cli import main

CAPTIONS = """
import numpy as np

def describe(frames):
    assert frames.dtype == np.uint8
    return f"{len(frames)} frames\\n of {frames.shape[2]}x{frames.shape[1]}"

def broken(frames):
    raise RuntimeError("out\\nof memory")

def number(frames):
    return 5

NOT_A_FUNCTION = 3
"""


@pytest.fixture
def modules(tmp_path, monkeypatch) -> Path:
    """A folder on the path with modules of somebody else."""
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (folder / "their_captions.py").write_text(CAPTIONS)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def order(raw_with_truth, tmp_path):
    """The exit code of an annotate command with more options."""
    raw, truth = raw_with_truth

    def run(*more: str, out: str = "out", geometry: tuple[str, ...] = ("oracle", "--truth", str(truth))) -> int:
        return main(["annotate", str(raw), str(tmp_path / out), "--geometry", *geometry, *more])

    return run


def _captions(out: Path) -> dict[str, str]:
    return {record.source: record.caption for record in ClipDataset(out).records}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_captioner_speaks_where_no_text_file_does(order, modules, tmp_path, workers):
    assert order("--captioner", "their_captions:describe", "--workers", workers) == 0
    assert _captions(tmp_path / "out") == {"a.mp4": "a slanted plane", "sub/b.mp4": "8 frames of 64x48"}
    settings = json.loads((tmp_path / "out" / "dataset.json").read_text())["config"]
    assert settings["captioner"] == "their_captions:describe"


@pytest.mark.parametrize(("name", "why"), [("broken", "RuntimeError: out of memory"), ("number", "returned int")])
def test_a_captioner_that_fails_costs_the_caption_and_says_so(order, modules, tmp_path, capsys, name, why):
    assert order("--captioner", f"their_captions:{name}", "--workers", "0") == 0
    assert _captions(tmp_path / "out") == {"a.mp4": "a slanted plane", "sub/b.mp4": ""}
    notes = {record.source: record.notes for record in ClipDataset(tmp_path / "out").records}
    assert notes["a.mp4"] == []
    assert len(notes["sub/b.mp4"]) == 1
    assert why in notes["sub/b.mp4"][0]
    assert f"sub/b.mp4 [0:13]: {notes['sub/b.mp4'][0]}" in " ".join(capsys.readouterr().out.split())
    assert main(["validate", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("their_captions", "give MODULE:NAME"),
        ("no_such_module:describe", "no_such_module cannot be imported"),
        ("their_captions:nothing", "has no attribute 'nothing'"),
        ("their_captions:NOT_A_FUNCTION", "int cannot be called"),
    ],
)
def test_a_captioner_that_is_not_there_is_said_before_anything_is_done(order, modules, tmp_path, capsys, name, why):
    assert order("--captioner", name) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
