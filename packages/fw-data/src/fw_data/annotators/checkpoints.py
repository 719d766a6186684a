"""Weights of a network: a safetensors file, a folder or a hub id, with their license.

Nothing here opens a pickle, and nothing is downloaded that was not named.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

WEIGHTS = "model.safetensors"
_SAMPLE_BYTES = 1 << 20
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published checkpoint: what it is called, and on which terms it may be used."""

    name: str
    """Short name, as on the command line."""
    hub_id: str
    """Repository on the Hugging Face hub."""
    license: str
    """License of the weights, in plain words."""
    permissive: bool
    """Whether the license allows any use."""


class WeightsMissing(ValueError):  # noqa: N818 - named like FileNotFoundError
    """Weights were not found; the message names the source and the license."""


def locate(source: str | Path, release: Release) -> Path:
    """The safetensors file that `source` means: a file, a folder that holds one, or a hub id (which is downloaded).

    Raises:
        WeightsMissing: there is nothing, or a pickle, or the hub does not answer.
    """
    path = Path(source)
    if not path.exists():
        if isinstance(source, Path) or str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
            raise WeightsMissing(f"{source} does not exist. {advice(release)}")
        path = _download(str(source), release)
    if path.is_file():
        if path.suffix in PICKLES:
            raise WeightsMissing(
                f"{path} is a pickle, which can run code when opened, and is not read. {advice(release)}"
            )
        if path.suffix != ".safetensors":
            raise WeightsMissing(f"{path} is no safetensors file. {advice(release)}")
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    raise WeightsMissing(f"{path} holds {len(found)} safetensors files, none of them {WEIGHTS}. {advice(release)}")


def cached(release: Release) -> Path | None:
    """The weights of a release if an earlier download left them on this machine; asks no server."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(release.hub_id, WEIGHTS)
    return Path(found) if isinstance(found, str) else None


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises WeightsMissing for a file that is cut short or something else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsMissing(f"{path} is no whole safetensors file ({error}); fetch it again.") from error


def fingerprint(path: Path) -> str:
    """16 hex digits that tell one weights file from another: hash of its size and of its first and last mebibyte.

    The table of names and shapes is at the start, so another network differs there; all of a large file is not read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def settings_beside(path: Path) -> dict[str, object]:
    """config.json in the folder of the weights; empty if there is none or it is no table."""
    config = path.parent / "config.json"
    if not config.is_file():
        return {}
    content = json.loads(config.read_text())
    return content if isinstance(content, dict) else {}


def check_names(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], source: Path, network: str
) -> None:
    """Raises WeightsMissing that names the first difference between a file's tensors and those of the network."""
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} belongs to no part of it" for name in given if name not in wanted]
    problems += [
        f"{name} is {given[name]}, not {shape}" for name, shape in wanted.items() if given.get(name, shape) != shape
    ]
    if problems:
        raise WeightsMissing(
            f"{source} does not hold the weights of {network}: {problems[0]} ({len(problems)} differences in all)."
        )


def advice(release: Release) -> str:
    """Fix for missing weights, in two sentences."""
    return (
        f"Give a .safetensors file, a folder that holds {WEIGHTS}, or the hub id {release.hub_id}, which is downloaded "
        f"once. Its weights are under {release.license}."
    )


def _download(hub_id: str, release: Release) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HfHubHTTPError) as error:
        raise WeightsMissing(
            f"{hub_id} is not on this machine and could not be downloaded ({type(error).__name__}). {advice(release)}"
        ) from error
