"""docs/annotate-my-videos.md is complete: every code, filter, default, limit and tag of the source is there."""

import ast
import re
from pathlib import Path

import pytest

import fw_data
from fw_data.options import AnnotateOptions
from fw_data.quality.filters import FilterConfig
from fw_data.quality.grade import GRADE_MEANINGS, LIMITS
from fw_data.quality.motion_tags import TAGS

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "annotate-my-videos.md"
_SOURCE = Path(fw_data.__file__).parent
_MODULES = ["annotate/scan.py", "annotate/scan_pass.py", "annotate/tasks.py", "quality/filters.py"]
_MODULES += ["media/*.py", "annotators/**/*.py"]
_DAMAGE = {"clip-video"}
"""Codes of the dataset's own files, which `fw-data validate` explains."""

pytestmark = pytest.mark.skipif(not _PAGE.is_file(), reason="the documents are not beside the package")


def _codes() -> set[str]:
    """What is given as a code anywhere in the modules that can leave a video or clip out."""
    found: set[str] = set()
    for path in (path for pattern in _MODULES for path in _SOURCE.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "OUTSIDE":
                found |= _texts(node.value)
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("DataError", "AnnotationRefused"):
                found |= _texts(node.args[0])
            if name == "leave_out":
                found |= _texts(node.args[3])
            found |= {code for keyword in node.keywords if keyword.arg == "code" for code in _texts(keyword.value)}
    return found - _DAMAGE


def _texts(node: ast.expr) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value}


def _section(title: str) -> str:
    return _PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_code_is_explained_and_none_is_made_up():
    codes = _codes()
    assert {"no-parallax", "too-dark", "near-duplicate", "transition", "link-outside", "error"} <= codes
    listed = set(re.findall(r"`([a-z-]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", _section("Codes"), re.MULTILINE))))
    assert listed == codes


def test_filters_stand_there_with_their_defaults():
    table = dict(re.findall(r"^\| `--([a-z-]+)` \| ([-\d.]+) \|", _section("What happens to a video"), re.MULTILINE))
    options = {name: getattr(AnnotateOptions, name.replace("-", "_")) for name in table}
    assert {name: float(value) for name, value in table.items()} == {k: float(v) for k, v in options.items()}
    assert len(table) == len(FilterConfig.__dataclass_fields__) + 1


def test_grades_stand_there_with_their_limits():
    text = _section("Grades")
    for letter, meaning in GRADE_MEANINGS.items():
        assert f"| {letter} | {meaning} |" in text
    for name in LIMITS["A"]:
        row = re.search(rf"^\| `{name}` \| (.*?) \| (.*?) \| (.*?) \|", text, re.MULTILINE)
        assert row, name
        for limits_of, shown in zip(LIMITS.values(), row.groups(), strict=True):
            limits = [f"{value:g}" for value in limits_of[name] if value is not None]
            assert shown == " to ".join(limits)


def test_motion_tags_stand_there():
    text = _section("Conventions")
    for tag in TAGS:
        stem, _, way = tag.partition("-")
        assert f"`{tag}`" in text or (f"`{stem}-" in text and f"`-{way}`" in text), tag
