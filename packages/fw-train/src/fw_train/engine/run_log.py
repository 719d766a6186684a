"""Log of a run: log.jsonl, trackers such as TensorBoard, and a progress bar or plain lines on the terminal.

A row of log.jsonl is one JSON object: `step` (optimizer steps done), `split` ("train" or "val") and numbers, or
`step` and `event`. A resumed run drops the rows after its checkpoint, so curves never run backwards.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fw_core.files import write_text
from fw_train.engine.trackers import Tracker

LOG = "log.jsonl"
ADDED = "clips added"
"""Event of a resumed run; it is logged again when the run resumes from the same step again."""


class RunLog:
    """Writes the log of one run; use as a context manager.

    Args:
        out: run folder.
        steps: total steps of the run, for the progress bar.
        step: steps already done; later rows of an existing log are dropped.
        quiet: write files only.
        trackers: also get metrics and images; closed with the log.
    """

    def __init__(
        self, out: Path, *, steps: int, step: int = 0, quiet: bool = False, trackers: Sequence[Tracker] = ()
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / LOG
        _truncate(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        self._trackers = trackers
        self._steps = steps
        self._quiet = quiet
        self._printed: set[str] = set()
        self._bar: Any = None

    def __enter__(self) -> "RunLog":
        if not self._quiet and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns)
            self._bar.add_task("training", total=self._steps, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def progress(self, step: int) -> None:
        """Advance the progress bar to a step."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def metrics(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log a row of measurements."""
        self._row({"step": step, "split": split, **values})
        for tracker in self._trackers:
            tracker.metrics(step, split, values)
        line = f"step {step}/{self._steps} {split} " + " ".join(
            f"{k} {_short(v)}" for k, v in values.items() if k.count("/") < 2
        )
        if self._bar is not None and split == "train":
            self._bar.update(self._bar.task_ids[0], completed=step, note=f"loss {_short(values['loss'])}")
        else:
            self.message(line)

    def event(self, step: int, event: str, **details: Any) -> None:
        """Log an event: started, clips added, saved, sampled, interrupted, diverged or finished."""
        self._row({"step": step, "event": event, **details})

    def image(self, step: int, path: Path, notes: Sequence[str]) -> None:
        """Log an image file of generated worlds, and print the notes on them that are new."""
        self.event(step, "sampled", path=path.name, notes=list(notes))
        for note in [note for note in notes if note not in self._printed]:
            self._printed.add(note)
            self.message(f"previews: {note}")
        for tracker in self._trackers:
            tracker.image(step, path)

    def message(self, line: str) -> None:
        """Print a line."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            print(line, flush=True)

    def _row(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def read_log(out: Path) -> list[dict[str, Any]]:
    """All complete rows of a run's log, oldest first, without a last line that a crash cut off."""
    path = out / LOG
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}, row {len(rows) + 1} is not JSON ({error}); the file was edited or damaged"
            ) from None
    return rows


def _truncate(path: Path, step: int) -> None:
    """Keep the rows up to `step` only; none for a run that starts over."""
    if not path.exists():
        return
    rows = [row for row in read_log(path.parent) if 0 < step >= row["step"]]
    kept = [row for row in rows if row["step"] < step or row.get("event") != ADDED]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _short(value: float) -> str:
    return f"{value:.4g}"
