"""Code of others by its name on the command line: captioners and geometry backends, in this process and in workers."""

import json
from pathlib import Path

import numpy as np
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


BACKEND = '''
import os

import numpy as np
from fw_data.annotators.base import AnnotationRefused, ClipGeometry


class Wall:
    """A wall two units away, before a camera that slides along it."""

    name = "wall"
    version = "7"
    settings = {"distance": 2.0, "weights": None}
    score_meanings = {"bricks": "how many there are"}

    def __init__(self):
        self.made_in = os.getpid()

    def annotate(self, frames, *, progress=None):
        count, height, width, _ = frames.shape
        if frames.mean() > 250:
            raise AnnotationRefused("too-white", "There is no wall in it.")
        if progress:
            progress("bricks", 1.0)
        pose_c2w = np.eye(4)[None].repeat(count, 0)
        pose_c2w[:, 0, 3] = 0.05 * np.arange(count)
        K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
        return ClipGeometry(
            depth_m=np.full((count, height, width), 2, np.float32),
            confidence=np.ones((count, height, width), np.float32),
            K=K[None].repeat(count, 0),
            pose_c2w=pose_c2w,
            pose_confidence=np.ones(count, np.float32),
            scores={"bricks": float(count)},
        )


class Nameless:
    version = "1"

    def annotate(self, frames, *, progress=None): ...


class Idle:
    name, version = "idle", "1"
'''


@pytest.fixture
def backend(modules) -> Path:
    (modules / "their_geometry.py").write_text(BACKEND)
    return modules


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_backend_from_elsewhere_annotates(order, backend, tmp_path, workers, capsys):
    assert order("--workers", workers, geometry=("their_geometry:Wall",)) == 0
    assert "geometry: wall 7 from their_geometry:Wall, not part of fw-data" in " ".join(capsys.readouterr().out.split())
    dataset = ClipDataset(tmp_path / "out")
    assert {(record.backend, record.backend_version) for record in dataset.records} == {("wall", "7")}
    assert dataset.records[0].scores["bricks"] == 13
    clip = dataset.load(0)
    assert (clip.depth_m == 2).all()
    np.testing.assert_allclose(clip.pose_c2w[:, 0, 3], 0.05 * np.arange(13))
    card = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert card["config"]["wall.path"] == "their_geometry:Wall"
    assert (card["config"]["wall.distance"], card["config"]["wall.weights"]) == (2.0, None)
    assert card["scores"]["bricks"] == "how many there are"
    assert main(["validate", str(tmp_path / "out")]) == 0


def test_its_settings_are_part_of_the_fingerprint(order, backend, capsys):
    assert order("--workers", "0", geometry=("their_geometry:Wall",)) == 0
    (backend / "our_geometry.py").write_text("from their_geometry import Wall\nclass Wall(Wall):\n    version = '8'\n")
    assert order("--workers", "0", geometry=("our_geometry:Wall",)) == 2
    assert "backend_version: 7 then, 8 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("colmap", "sfm, dust3r, vggt, depth-anything-3, map-anything, oracle, auto or MODULE:CLASS"),
        ("no_such_module:Wall", "no_such_module cannot be imported"),
        ("their_geometry:Nameless", "the class needs a str attribute 'name'"),
        ("their_geometry:Idle", "the class needs a method annotate"),
    ],
)
def test_a_backend_that_is_none_is_said_before_anything_is_done(order, backend, tmp_path, capsys, name, why):
    assert order(geometry=(name,)) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
