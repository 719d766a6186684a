"""Refusals: cheap ones first, each with a hint, kept by a run that is killed."""

import ast
import json
from contextlib import suppress
from pathlib import Path

import fw_data
from fw_data.annotate import pipeline
from fw_data.annotate.hints import HINTS
from fw_data.annotators.base import ClipGeometry
from fw_data.annotators.sfm.spec import SfmSpec

SOURCES = Path(fw_data.__file__).parent


def calls(path: Path, name: str) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if isinstance(node.func, ast.Name) and node.func.id == name]


def test_every_code_has_a_hint():
    codes = set()
    for path in (*(SOURCES / "media").glob("*.py"), SOURCES / "annotate" / "scan.py"):
        codes |= {node.args[0].value for node in calls(path, "DataError") if isinstance(node.args[0], ast.Constant)}
    for node in calls(SOURCES / "quality" / "filters.py", "Rejection"):
        codes |= {ast.literal_eval(word.value) for word in node.keywords if word.arg == "code"}
    assert len(codes) > 15
    assert codes - {"clip-video"} <= set(HINTS)  # clip-video is damage of a dataset
    refused = [node for path in (SOURCES / "annotators").rglob("*.py") for node in calls(path, "AnnotationRefused")]
    assert len(refused) > 12
    assert all(len(node.args) == 3 for node in refused)


def test_a_size_that_the_backend_does_not_take_is_refused_before_decoding(raw_with_truth, run_annotate, tmp_path):
    raw, _ = raw_with_truth  # 64x48
    summary = run_annotate(raw, tmp_path / "out", spec=SfmSpec())
    assert {(refusal.stage, refusal.code) for refusal in summary.refusals} == {("probe", "too-small")}
    assert all("64" in refusal.reason and refusal.hint for refusal in summary.refusals)
    assert summary.planned == 0


def test_a_killed_run_keeps_its_refusals(raw_with_truth, run_annotate, tmp_path, monkeypatch):
    raw, truth = raw_with_truth
    (raw / "broken.mp4").write_bytes(b"no video")
    (truth / "a.npz").unlink()

    def killed(*_: object) -> None:
        raise SystemError

    monkeypatch.setattr(pipeline, "finish", killed)
    with suppress(SystemError):
        run_annotate(raw, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "refusals.jsonl").read_text().splitlines()]
    assert {(line["source"], line["code"]) for line in lines} == {("broken.mp4", "unreadable"), ("a.mp4", "no-truth")}
    monkeypatch.undo()
    summary = run_annotate(raw, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "refusals.jsonl").read_text().splitlines()]
    assert len(lines) == len(summary.refusals) == 2
    assert all(line["hint"] for line in lines)


def test_geometry_without_any_depth_is_refused(raw_with_truth, run_annotate, tmp_path, monkeypatch):
    raw, _ = raw_with_truth
    whole = ClipGeometry.__post_init__

    def without_depth(self: ClipGeometry) -> None:
        self.depth_m[:] = 0
        self.confidence[:] = 0
        whole(self)

    monkeypatch.setattr(ClipGeometry, "__post_init__", without_depth)
    assert {refusal.code for refusal in run_annotate(raw, tmp_path / "out").refusals} == {"no-depth"}
