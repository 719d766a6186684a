"""The documents are true: what they show runs, and what they name exists.

```bash and ```python blocks of a document run in order in one fresh folder, each in a process of its own. ```console
blocks need a GPU, weights or minutes: of these, every command, sub-command and option is looked up instead.
"""

import contextlib
import dataclasses
import importlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.config import Compat
from fw_model.pipeline.components import load_components

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "README_zh.md", ROOT / "examples" / "README.md"]
DOCUMENTS = [*PAGES, *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("packages/*/README.md"))]
REFERENCE = ROOT / "docs" / "reference"
CODE = re.compile(r"`([^`\n]+)`")
BASES = [ROOT, ROOT / "packages/fw-model/src/fw_model", *sorted(ROOT.glob("packages/*/src"))]
MODULES = {"fw": "fw_app.cli", "fw-data": "fw_data.cli", "fw-serve": "fw_serve.cli", "fw-train": "fw_train.cli"}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)")
_help_cache: dict[tuple[str, ...], str] = {}


def blocks(document: Path, kind: str) -> list[str]:
    return [body for found, body in BLOCK.findall(document.read_text()) if found == kind]


def names(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "bash") or blocks(d, "python")], ids=names)
def test_snippets_run(document: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONWARNINGS"] = "ignore"
    if document.parent == ROOT:  # the README generates from the reader's photo
        Image.new("RGB", (160, 120), "tan").save(tmp_path / "photo.jpg")
    for kind, body in BLOCK.findall(document.read_text()):
        if kind not in ("bash", "python"):
            continue
        command = ["bash", "-euo", "pipefail", "-c", body] if kind == "bash" else [sys.executable, "-c", body]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{names(document)}:\n{body}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_links_lead_somewhere(document: Path) -> None:
    for link, anchor in LINK.findall(document.read_text()):
        target = document.parent / link if link else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_shown_commands_exist(document: Path) -> None:
    shown = "\n".join(blocks(document, "console") + blocks(document, "bash")).replace("\\\n", " ")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in shown.splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= set(targets), line
        if words and words[0] in MODULES:
            _check_command(words, line)


def test_the_chinese_readme_shows_the_same_commands_and_pages() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README_zh.md"))
    shown = re.findall(r"^((?:make|fw|fw-data|fw-train) [a-z0-9]+)", english, re.MULTILINE)
    listed = re.findall(r"^\| `([^`]+)`", english, re.MULTILINE)
    pages = [link for link, _ in LINK.findall(english) if not link.startswith("README")]
    assert not [words for words in (*shown, *listed, *pages) if words not in chinese]


@pytest.mark.parametrize(
    "document", ["architecture.md", "reference/paper-compliance.md", "reference/technical-deep-dive.md"]
)
def test_named_files_and_tests_exist(document: str) -> None:
    named = set(CODE.findall((ROOT / "docs" / document).read_text()))
    files = {name for name in named if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?|[\w-]+(\.py|/)", name)}
    assert len(files) > 5
    assert not {name for name in files if not any((base / name).exists() for base in BASES)}
    tests = {name for name in named if name.startswith("test_")}
    sources = [path.read_text() for room in ("packages", "apps", "tests") for path in (ROOT / room).rglob("test_*.py")]
    known = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert not {name for name in tests - known if not _is_cut_short(name, known)}


@pytest.mark.slow
def test_the_shown_pipeline_json_is_read(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "use-real-weights.md", "json")
    (tmp_path / "pipeline.json").write_text(shown)
    WanVAE.small().save(tmp_path)
    for folder in ("text", "clip"):
        (tmp_path / folder).mkdir()
    parts = load_components(tmp_path)
    assert (parts.text_encoder.text_len, parts.text_encoder.text_dim) == (512, 4096)
    assert parts.image_encoder is not None
    assert (parts.sampling.num_frames, parts.sampling.height, parts.sampling.width) == (81, 336, 592)


@pytest.mark.parametrize("document", ["paper-compliance.md", "technical-deep-dive.md"])
def test_every_compat_choice_is_described(document: str) -> None:
    named = {name.removeprefix("compat.") for name in CODE.findall((REFERENCE / document).read_text())}
    assert not {field.name for field in dataclasses.fields(Compat)} - named


def test_the_table_of_compat_gives_the_true_values() -> None:
    text = (REFERENCE / "technical-deep-dive.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (`\S+` \| `\S+`) \|", text, re.MULTILINE))
    for field in dataclasses.fields(Compat):
        values = (str(getattr(kind, field.name)) for kind in (Compat(), Compat.released()))
        assert rows[field.name] == " | ".join(f"`{value}`" for value in values)


def test_diagrams_equal_the_output_of_their_script() -> None:
    folder = ROOT / "docs" / "images"
    drawn = runpy.run_path(str(folder / "draw.py"))
    for name in ("model", "packages", "frames", "curves"):
        assert (folder / f"{name}.svg").read_text(encoding="utf-8") == drawn[name]()


def _is_cut_short(name: str, known: set[str]) -> bool:
    return name.endswith("…") and any(test.startswith(name[:-1]) for test in known)


def _anchors(document: Path) -> set[str]:
    """Names that headings can be linked by: lower case, words joined by hyphens, other signs left out."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _check_command(words: list[str], line: str) -> None:
    depth = 3 if words[:2] in (["fw-serve", "key"], ["fw", "plan"]) else 2
    subcommands = [word for word in words[1:depth] if not word.startswith("-")]
    text = _help(words[0], *subcommands)
    if words[:2] in (["fw-train", "plan"], ["fw-train", "encode"]):
        text += _help("fw-train", words[2])  # they take the flags of the stage too
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", text), f"{option} is not an option of: {line}"


def _help(command: str, *subcommands: str) -> str:
    key = (command, *subcommands)
    if key not in _help_cache:
        recipe = ["tiny"] if command == "fw-train" and subcommands[0] in ("base", "stage1", "stage2") else []
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            try:
                code = importlib.import_module(MODULES[command]).main([*subcommands, *recipe, "--help"])
            except SystemExit as end:
                code = end.code
        assert code == 0, f"{' '.join(key)} --help"
        _help_cache[key] = shown.getvalue()
    return _help_cache[key]
