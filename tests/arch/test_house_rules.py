"""The rules of the house that a tool can check: file lengths, pickles, import cost, what may stand in a commit."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for room in ("packages", "apps") for path in (ROOT / room).glob("*/src/**/*.py"))
PICKLE_READER = "packages/fw-model/src/fw_model/convert"
CLIS = {"fw_app.cli": "fw", "fw_data.cli": "fw-data", "fw_serve.cli": "fw-serve", "fw_train.cli": "fw-train"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


TOP = {
    *(
        ".ci",
        ".gitignore",
        ".pre-commit-config.yaml",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "NOTICE",
    ),
    *("README.md", "README_zh.md", "SECURITY.md", "apps", "benchmarks", "conftest.py", "docs", "examples", "infra"),
    *("packages", "pyproject.toml", "requirements.lock", "tests"),
}
"""Everything that belongs at the top; results of commands that ran here do not."""


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


def test_there_are_sources() -> None:
    assert len(SOURCES) > 50


def test_no_file_is_over_500_lines() -> None:
    long = {relative(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_no_function_is_over_82_lines() -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [
        (path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)
    ]
    long = {f"{relative(p)}:{n.name}": size for p, n in nodes if (size := (n.end_lineno or 0) - n.lineno + 1) > 82}
    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [relative(p) for p in SOURCES if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent


def test_no_room_for_leftovers() -> None:
    named = [relative(p) for p in SOURCES if {"utils", "common", "misc", "helpers"} & set(p.with_suffix("").parts)]
    assert not named


def test_pickles_are_opened_by_the_convert_command_alone() -> None:
    opened = re.compile(r"torch\.load\(|pickle\.loads?\(|allow_pickle=True")
    found = [relative(p) for p in SOURCES if opened.search(p.read_text())]
    assert all(name.startswith(PICKLE_READER) for name in found), found


def test_every_pickle_is_opened_with_weights_only() -> None:
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load":
                safe = [k for k in call.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
                assert safe, f"{relative(path)}:{call.lineno} opens a pickle without weights_only=True"


def test_no_addresses_of_registries_or_machines_are_committed() -> None:
    forbidden = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|deb\.debian\.org|(?<![\w.])/(?:root|home)/\w")
    found = []
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".txt", ".lock", ".yaml", ".yml", ".json") or path.name == "Makefile":
            found += [relative(path) for _ in forbidden.finditer(path.read_text(errors="ignore"))]
    assert not set(found) - {relative(Path(__file__))}


def test_the_page_of_the_environment_lists_every_variable_of_ours() -> None:
    read = {name for path in SOURCES for name in re.findall(r"""["'](FW_[A-Z0-9_]+)["']""", path.read_text())}
    page = (ROOT / "docs/environment.md").read_text().split("## Environment variables")[1]
    assert len(read) > 5
    assert read == set(re.findall(r"^\| `(FW_[A-Z0-9_]+)", page, re.MULTILINE))


def test_no_results_are_committed() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert top == TOP, f"{sorted(top - TOP)}: remove it from git, or list it here if it belongs to the project"


def test_uv_lock_is_not_tracked() -> None:
    assert ROOT / "uv.lock" not in tracked()


@pytest.mark.parametrize("module", sorted(CLIS))
def test_help_needs_neither_torch_nor_ray(module: str) -> None:
    code = (
        f"import sys; from {module} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'transformers', 'diffusers', 'pycolmap', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: {CLIS[module]}" in done.stdout


@pytest.mark.parametrize("package", ["fw_geometry", "fw_model", "fw_data", "fw_toy", "fw_train"])
def test_importing_a_package_pulls_nothing_heavy(package: str) -> None:
    code = (
        f"import sys, {package}\n"
        "heavy = {'ray', 'fastapi', 'tyro', 'transformers', 'diffusers', 'pycolmap'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
