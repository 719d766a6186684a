"""`fw generate --batch FILE`: many worlds with one load of the model.

FILE is JSONL or CSV with one world per row. All rows are checked before the model loads. A world that fails is recorded
and the rest is generated. Finished worlds are skipped when the command runs again. Under torchrun, process k of n (or
group k of n, with --parallel) takes the rows k, k + n, ...; each writes its own results file.
"""

import csv
import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fw_app.example_images import domain_note, resolve_image
from fw_app.generate import join_processes, load_pipeline, read_inputs, resolve, start, write
from fw_app.options import GenerateOptions
from fw_app.progress import BatchBar, batch_bar
from fw_core.commands import describe, nearest
from fw_core.files import make_writable, read_text
from fw_model.checkpoints.shipped import EXAMPLE
from fw_model.pipeline.settings import GenerationSettings

if TYPE_CHECKING:
    from fw_model.pipeline.job import GenerationJob
    from fw_model.pipeline.pipeline import WorldPipeline
    from fw_model.pipeline.result import Progress

OWN_KEYS = ("image", "name", "prompt", "trajectory", "angle_deg", "distance", "last_image", "segments")
SETTINGS = tuple(field.name for field in fields(GenerationSettings))
RESULTS = "results-{rank:03d}.jsonl"
FAILURES = (ValueError, TypeError, OSError, RuntimeError, ArithmeticError)
"""Errors of one world that the others survive: bad inputs, files, out of memory, numbers that are not finite."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One world of a batch."""

    name: str
    """Its folder in the output folder."""
    options: GenerateOptions
    """The options of its generation."""

    def digest(self) -> str:
        """Hash of everything that determines the world.

        Options with their default value are left out, so that a new option changes no earlier digest.
        """
        options, usual = asdict(self.options), asdict(GenerateOptions(out=Path()))
        for key in ("out", "batch", "device", "offload", "parallel", "server", "samples_per_pass"):
            del options[key]
        changed = {key: value for key, value in options.items() if value != usual[key]}
        changed["settings"] = {k: value for k, value in options["settings"].items() if value != usual["settings"][k]}
        return hashlib.sha256(json.dumps(changed, sort_keys=True, default=str).encode()).hexdigest()


def generate_batch(options: GenerateOptions) -> int:
    """Generate the unfinished worlds of this process's share; returns 1 if any failed."""
    assert options.batch is not None
    if options.samples_per_pass < 1:
        raise ValueError(f"--samples-per-pass is {options.samples_per_pass}; it must be at least 1")
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
    with batch_bar(len(missing)) as bar:
        work = _Work(pipeline, options.out / RESULTS.format(rank=rank), len(missing), bar)
        try:
            work.generate(missing, options.samples_per_pass)
        except _GroupLostError:
            untried = len(missing) - work.done
            print(f"after this failure the processes of the group cannot continue; {untried} worlds were not tried: "
                  "run the same command again", file=sys.stderr)  # fmt: skip
    print(f"{work.done - len(work.failed)} worlds written to {options.out}, {len(work.failed)} failed")
    for line in work.failed:
        print(f"  failed: {line}", file=sys.stderr)
    return 1 if work.failed else 0


class _Work:
    """Generates rows in passes, and records each world, or why there is none, as soon as that is known."""

    def __init__(self, pipeline: "WorldPipeline", results: Path, total: int, bar: BatchBar) -> None:
        self.pipeline, self.results, self.total, self.bar = pipeline, results, total, bar
        self.failed: list[str] = []
        self.done = 0

    def generate(self, rows: Sequence[Row], samples_per_pass: int) -> None:
        """Generate rows, up to `samples_per_pass` of them in one pass."""
        from fw_model.pipeline.job import Passes

        passes = Passes[Row](samples_per_pass)
        for row in rows:
            began = time.monotonic()
            try:
                inputs = read_inputs(row.options)
                if row.options.segments > 1:
                    self._take([row], start(self.pipeline, row.options, inputs)[1], began)
                    continue
                notes, trajectory, settings = resolve(self.pipeline, row.options, inputs)
                job = self.pipeline.prepare(
                    inputs.image, inputs.prompt, trajectory, settings, last_image=inputs.last_image, notes=notes
                )
            except FAILURES as error:
                self._record(row, began, error=error)
                continue
            if full := passes.add(row, job):
                self._run(full)
        for left in passes.rest():
            self._run(left)

    def _run(self, members: "Sequence[tuple[Row, GenerationJob]]") -> None:
        """Generate a pass; if it fails, its unfinished worlds one at a time."""
        began, done = time.monotonic(), self.done
        try:
            self._take([row for row, _ in members], self.pipeline.run([job for _, job in members]), began)
        except FAILURES as error:
            group = self.pipeline.parallel
            if len(members) == 1 or (group is not None and group.broken):
                self._record(members[self.done - done][0], began, error=error)
                return
            print(f"a pass of {len(members)} worlds failed ({describe(error)}); one at a time now", file=sys.stderr)
        else:
            return
        _free_memory()  # after the except block, whose traceback keeps the tensors of the failed pass
        for member in members[self.done - done :]:
            self._run([member])

    def _take(self, rows: Sequence[Row], reports: "Iterator[Progress]", began: float) -> None:
        for report in reports:
            self.bar.stages.update(report)
            if report.world is not None:
                row = rows[report.samples[0]]
                write(report.world, row.options.out)
                self._record(row, began, notes=report.world.notes)

    def _record(self, row: Row, began: float, *, notes: Sequence[str] = (), error: Exception | None = None) -> None:
        """Append an entry to the results file; seconds count from the start of the world's pass."""
        entry: dict[str, Any] = {"name": row.name, "digest": row.digest()}
        if error is None:
            entry |= {"status": "completed", "notes": notes}
        else:
            entry |= {"status": "failed", "error": describe(error)}
            self.failed.append(f"{row.name}: {describe(error)}")
        entry["seconds"] = round(time.monotonic() - began, 3)
        with self.results.open("a", encoding="utf-8") as results:
            results.write(json.dumps(entry) + "\n")
        self.done += 1
        self.bar.done()
        print(f"{self.done}/{self.total} {row.name}: {entry['status']}, {entry['seconds']:.1f} s", flush=True)
        group = self.pipeline.parallel
        if error is not None and group is not None and group.broken:
            raise _GroupLostError


class _GroupLostError(Exception):
    """The processes that make a world together are out of step after a failure."""


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
    if isinstance(changes.get("timesteps"), str):  # a cell of a CSV file
        changes["timesteps"] = [_typed(part) for part in changes["timesteps"].split(",")]
    elif isinstance(changes.get("timesteps"), (int, float)):  # a cell with one number
        changes["timesteps"] = [changes["timesteps"]]
    if ("timesteps" in changes) != ("num_inference_steps" in changes):  # a row overrides either form of the flags
        changes = {"timesteps": None, "num_inference_steps": None} | changes
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
