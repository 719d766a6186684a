"""Write generated worlds, one folder per clip; each folder appears complete or not at all.

A world's folder contains the files of `fw generate` and origin.json, its generation settings. Worlds with other
settings are an error; they are never mixed in or overwritten.
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
    """Seed of one sample, derived from the seed and its names; independent of all other samples."""
    text = "/".join(str(part) for part in (seed, *names))
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def is_made(folder: Path, settings: Mapping[str, Plain]) -> bool:
    """Whether a folder contains a world with these settings.

    Raises:
        ConfigError: the folder has other settings (the message lists the differences) or an unknown origin.
    """
    if not folder.exists():
        return False
    try:
        before = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            f"{folder} has no readable {ORIGIN}, so its settings are unknown; use another --out"
        ) from None
    if before != dict(settings):
        names = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
        changes = "; ".join(f"{name}: {before.get(name)} before, {settings.get(name)} now" for name in names)
        raise ConfigError(
            f"{folder} was generated with other settings ({changes}); use the same settings to resume, or another --out"
        )
    return True


def write_world(world: "World", folder: Path, settings: Mapping[str, Plain]) -> None:
    """Write a world and its origin.json; the folder appears complete or not at all."""
    with_files(folder, settings, lambda partial: export_world(world, partial))


def with_files(folder: Path, settings: Mapping[str, Plain], write: Callable[[Path], Any]) -> None:
    """Fill a temporary folder with `write`, add origin.json, then rename it to `folder`."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    (partial / ORIGIN).write_text(json.dumps(dict(settings), indent=1) + "\n", encoding="utf-8")
    partial.rename(folder)


def finish(reports: "Iterator[Progress]", label: str, say: Say) -> "World":
    """Run a generation to its end and print its duration."""
    world = None
    seconds = 0.0
    for report in reports:
        world, seconds = report.world or world, report.seconds
    assert world is not None, "generation ends with a world"
    say(f"{label}: generated in {seconds:.1f} s")
    return world
