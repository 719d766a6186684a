"""The wheels: complete metadata, sibling packages pinned to each other, and every command runs from them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from benchmarks.house import flags_by_command

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(
    path.parent for path in (*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("apps/*/pyproject.toml"))
)
COMMANDS = {"fw", "fw-data", "fw-serve", "fw-train"}


def project(package: Path) -> dict:
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def uv() -> str:
    found = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    if not Path(found).exists():
        pytest.skip("uv is not installed; `make env` installs it")
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All wheels, built offline and installed without their dependencies into an empty folder."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    for package in PACKAGES:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
        done = subprocess.run(build, cwd=package, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    files = sorted(map(str, wheels.glob("*.whl")))
    install = [
        uv(),
        "pip",
        "install",
        "--python",
        sys.executable,
        "--no-deps",
        "--offline",
        "--target",
        str(target),
        *files,
    ]
    done = subprocess.run(install, cwd=target, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_every_package_knows_its_version() -> None:
    for package in PACKAGES:
        (module,) = [path.parent.name for path in package.glob("src/*/__init__.py")]
        assert import_module(module).__version__ == project(package)["version"], module


@pytest.mark.slow
def test_wheels_are_complete(installed: Path) -> None:
    found: dict[str, Distribution] = {wheel.name: wheel for wheel in distributions(path=[str(installed)])}
    assert sorted(found) == sorted(project(package)["name"] for package in PACKAGES)
    for name, wheel in found.items():
        files = {str(path) for path in wheel.files or []}
        folder = f"{name.replace('-', '_')}-{wheel.version}.dist-info"
        assert {f"{folder}/licenses/LICENSE", f"{folder}/licenses/NOTICE"} <= files, name
        assert f"{name.replace('-', '_')}/py.typed" in files, name
        assert wheel.metadata["License-Expression"] == "Apache-2.0"
        assert wheel.metadata["Summary"]
        assert wheel.metadata["Description-Content-Type"] == "text/markdown"
        assert wheel.metadata.get_all("Project-URL"), name
        assert "Typing :: Typed" in (wheel.metadata.get_all("Classifier") or [])
        for requirement in wheel.requires or []:
            if requirement.startswith("fw-"):
                assert re.match(rf"fw-\w+(\[[\w,]+\])?=={re.escape(wheel.version)}(;|$)", requirement), requirement


@pytest.mark.slow
def test_every_command_runs_from_the_wheels(installed: Path) -> None:
    assert {path.name for path in (installed / "bin").iterdir()} >= COMMANDS
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    for command in sorted(COMMANDS):
        program = [str(installed / "bin" / command), "--help"]
        done = subprocess.run(program, cwd=installed, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: {command} ")
    code = f"import {', '.join(p.name for p in installed.glob('fw_*') if p.suffix != '.dist-info')}, sys\n" + (
        "print(*{m.__file__ for n, m in sys.modules.items() if n.startswith('fw_') and '.' not in n}, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(installed) for line in done.stdout.splitlines()), done.stdout
    assert len(flags_by_command([installed])) > 25


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_packages_carry_the_license_of_the_repository(package: Path) -> None:
    for name in ("LICENSE", "NOTICE"):
        assert (package / name).read_bytes() == (ROOT / name).read_bytes(), f"cp {name} {package.relative_to(ROOT)}/"


def test_all_packages_have_one_version() -> None:
    assert len({project(package)["version"] for package in PACKAGES}) == 1
