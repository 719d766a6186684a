"""Worlds for clips: generate those that are missing, one folder per clip, each written at once under its name.

A world's folder holds what `fw generate` writes and origin.json, the settings it was made with. A world of other
settings in the same place is refused, never mixed in and never overwritten.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fw_model.export import export_world
from fw_train.config.schema import ConfigError
from fw_train.evaluate.checkpoint import Say
from fw_train.evaluate.evaluation import Plain

if TYPE_CHECKING:
    from fw_model.pipeline.result import Progress, World

ORIGIN = "origin.json"


def noise_seed(seed: int, *names: str | int) -> int:
    """A seed of its own for every sample: the same in every run, whatever else is generated."""
    text = "/".join(str(part) for part in (seed, *names))
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def is_made(folder: Path, settings: Mapping[str, Plain]) -> bool:
    """Whether a world of these settings lies in a folder.

    Raises:
        ConfigError: there is something of other settings, or of an unknown origin; names the settings that differ.
    """
    if not folder.exists():
        return False
    try:
        before = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{folder} is not from here (no {ORIGIN} that reads); give another --out") from None
    if before != dict(settings):
        names = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
        changes = "; ".join(f"{name}: {before.get(name)} then, {settings.get(name)} now" for name in names)
        raise ConfigError(
            f"{folder} was generated with other settings ({changes}); use the same ones to go on, or another --out"
        )
    return True


def write_world(world: "World", folder: Path, settings: Mapping[str, Plain]) -> None:
    """Write a world and its origin; the folder appears whole or not at all."""
    with_files(folder, settings, lambda partial: export_world(world, partial))


def with_files(folder: Path, settings: Mapping[str, Plain], write: Callable[[Path], Any]) -> None:
    """Let `write` fill a folder beside the wanted one, add its origin, then put it in its place."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    (partial / ORIGIN).write_text(json.dumps(dict(settings), indent=1) + "\n", encoding="utf-8")
    partial.rename(folder)


def finish(reports: "Iterator[Progress]", what: str, say: Say) -> "World":
    """Follow a generation to its end and say how long it took."""
    world = None
    seconds = 0.0
    for report in reports:
        world, seconds = report.world or world, report.seconds
    assert world is not None, "a generation ends with a world"
    say(f"{what}: generated in {seconds:.1f} s")
    return world
