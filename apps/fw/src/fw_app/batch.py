"""`fw generate --batch FILE`: many worlds with one load of the model.

FILE is JSONL or CSV with one world per row. All rows are checked before the model loads. A world that fails is recorded
and the rest is generated. Finished worlds are skipped when the command runs again. Under torchrun, process k of n (or
group k of n, with --parallel) takes the rows k, k + n, ...; each writes its own results file.
"""

import csv
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fw_app.example_images import domain_note, resolve_image
from fw_app.generate import join_processes, load_pipeline, read_inputs, start, write
from fw_app.options import GenerateOptions
from fw_core.commands import describe, nearest
from fw_core.files import make_writable, read_text
from fw_model.checkpoints.shipped import EXAMPLE
from fw_model.pipeline.settings import GenerationSettings

OWN_KEYS = ("image", "name", "prompt", "trajectory", "angle_deg", "distance", "last_image", "segments")
SETTINGS = tuple(field.name for field in fields(GenerationSettings))
RESULTS = "results-{rank:03d}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One world of a batch."""

    name: str
    """Its folder in the output folder."""
    options: GenerateOptions
    """The options of its generation."""

    def digest(self) -> str:
        """Hash of everything that determines the world."""
        options = asdict(self.options)
        for key in ("out", "batch", "device", "offload", "parallel", "server"):
            del options[key]
        return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()


def generate_batch(options: GenerateOptions) -> int:
    """Generate the unfinished worlds of this process's share; returns 1 if any failed."""
    assert options.batch is not None
    group = join_processes(options)
    if group is not None and not group.is_leader:
        load_pipeline(options, free_encoders=False, group=group).follow()
        return 0
    size = 1 if group is None else group.size
    rank, ranks = int(os.environ.get("RANK", "0")) // size, int(os.environ.get("WORLD_SIZE", "1")) // size
    rows = read_batch(options.batch, options)
    done = finished(options.out)
    share = rows[rank::ranks]
    missing = [row for row in share if done.get(row.name) != row.digest()]
    print(f"{len(rows)} worlds, {len(share)} of them here, {len(share) - len(missing)} already finished", flush=True)
    if not missing:
        return 0
    make_writable(options.out)
    pipeline = load_pipeline(options, free_encoders=False, group=group)
    if pipeline.trained_on and not all(str(row.options.image).startswith(EXAMPLE) for row in missing):
        print(domain_note(pipeline.trained_on))
    failed: list[str] = []
    for number, row in enumerate(missing, start=1):
        began = time.monotonic()
        entry: dict[str, Any] = {"name": row.name, "digest": row.digest()}
        try:
            _, reports = start(pipeline, row.options, read_inputs(row.options))
            *_, last = reports
            assert last.world is not None, "a generation ends with a world"
            write(last.world, row.options.out)
            entry |= {"status": "completed", "notes": last.world.notes}
        except (ValueError, TypeError, OSError, RuntimeError) as error:  # RuntimeError: out of memory, not finite
            entry |= {"status": "failed", "error": describe(error)}
            failed.append(f"{row.name}: {describe(error)}")
        entry["seconds"] = round(time.monotonic() - began, 3)
        with (options.out / RESULTS.format(rank=rank)).open("a", encoding="utf-8") as results:
            results.write(json.dumps(entry) + "\n")
        print(f"{number}/{len(missing)} {row.name}: {entry['status']}, {entry['seconds']:.1f} s", flush=True)
    print(f"{len(missing) - len(failed)} worlds written to {options.out}, {len(failed)} failed")
    for line in failed:
        print(f"  failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def finished(out: Path) -> dict[str, str]:
    """Names of the completed worlds of earlier runs -> the digest of each."""
    entries: dict[str, str] = {}
    for path in sorted(out.glob("results-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            if entry["status"] == "completed" and (out / entry["name"] / "world.json").is_file():
                entries[entry["name"]] = entry["digest"]
    return entries


def read_batch(path: Path, options: GenerateOptions) -> list[Row]:
    """The worlds of a file, checked.

    Raises:
        ValueError: a row that is not an object, an unknown key, a value of the wrong type, no image, an image that does
            not exist, or a name that is used twice; the message gives the line.
        OSError: the file cannot be read.
    """
    if path.suffix == ".csv":
        table = csv.DictReader(read_text(path).splitlines())
        records = [(line, {k: _typed(v) for k, v in row.items() if v}) for line, row in enumerate(table, start=2)]
    else:
        lines = read_text(path).splitlines()
        records = [(line, _parsed(path, line, text)) for line, text in enumerate(lines, start=1) if text.strip()]
    if not records:
        raise ValueError(f"{path} has no rows; give one JSON object per line, or CSV with a header")
    digits = max(4, len(str(len(records))))
    rows = [
        _row(f"{path}, line {line}", record, options, path.parent, f"{number:0{digits}d}")
        for number, (line, record) in enumerate(records, start=1)
    ]
    seen: dict[str, int] = {}
    for (line, _), row in zip(records, rows, strict=True):
        if row.name in seen:
            raise ValueError(f"{path}, line {line}: the name {row.name!r} is already used in line {seen[row.name]}")
        seen[row.name] = line
    return rows


def _row(where: str, record: dict[str, Any], options: GenerateOptions, folder: Path, name: str) -> Row:
    for key in record:
        if key not in OWN_KEYS and key not in SETTINGS:
            close = nearest(key, (*OWN_KEYS, *SETTINGS))
            hint = f"did you mean {close}?" if close else f"known keys: {', '.join((*OWN_KEYS, *SETTINGS))}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    if "image" not in record:
        raise ValueError(f"{where}: image is missing")
    name = str(record.get("name", name))
    if not name or name in (".", "..") or any(mark in name for mark in "/\\"):
        raise ValueError(f"{where}: name is {name!r}; it must be the name of a folder, without slashes")
    values: dict[str, Any] = {}
    for key in ("image", "last_image"):
        if key in record:
            values[key] = _file(where, key, str(record[key]), folder)
    for key in ("prompt", "trajectory"):
        if key in record:
            values[key] = str(record[key])
    for key in ("angle_deg", "distance", "segments"):
        if key in record:
            values[key] = record[key]
    segments = values.get("segments", 1)
    if isinstance(segments, bool) or not isinstance(segments, int) or segments < 1:
        raise ValueError(f"{where}: segments is {segments!r}; it must be a whole number of at least 1")
    changes = {key: record[key] for key in SETTINGS if key in record}
    try:
        settings = options.settings.updated(**changes)
        settings.validate()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
    return Row(name=name, options=replace(options, **values, settings=settings, out=options.out / name, batch=None))


def _file(where: str, key: str, text: str, folder: Path) -> Path:
    """The path of an image: relative to the batch file, or the name of an example."""
    if text.startswith(EXAMPLE):
        resolve_image(Path(text), "")
        return Path(text)
    path = folder / text
    if not path.is_file():
        raise ValueError(f"{where}: {key} not found: {path}")
    return path


def _parsed(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f'{path}, line {line}: must be a JSON object, such as {{"image": "photo.jpg"}}')
    return record


def _typed(text: str) -> Any:
    """A cell of a CSV file as number or truth value if it reads as one, else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict | list) or value is None else value
