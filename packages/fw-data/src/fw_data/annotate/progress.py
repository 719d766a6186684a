"""Progress of a long run: bars on a terminal, plain lines elsewhere, a table at the end."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fw_data.dataset.schema import Refusal

if TYPE_CHECKING:
    from rich.console import Console

    from fw_data.annotate.summary import RunSummary

_LISTED = 20
_QUIET_S = 10.0


@runtime_checkable
class Phase(Protocol):
    """One pass over many jobs."""

    def working(self, job: object, stage: str, fraction: float) -> None:
        """Show the progress of a running job."""
        ...

    def step(self, text: str) -> None:
        """Count a finished job."""
        ...


@runtime_checkable
class Reporter(Protocol):
    """Receives the messages of a run."""

    def say(self, text: str) -> None:
        """Print one line."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """Print a refusal."""
        ...

    def phase(self, name: str, total: int, *, done: int = 0) -> AbstractContextManager[Phase]:
        """Start a pass over many jobs, `done` of them finished by an earlier run."""
        ...


def reporter_for(console: "Console") -> Reporter:
    """Bars on a terminal, lines elsewhere."""
    return RichReporter(console) if console.is_terminal else PlainReporter()


class PlainReporter:
    """Lines on standard output: every refusal, and the progress every ten seconds."""

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, flush=True)

    def refused(self, refusal: Refusal) -> None:
        """Print a refusal."""
        self.say(_line(refusal))

    @contextmanager
    def phase(self, name: str, total: int, *, done: int = 0) -> Iterator["PlainPhase"]:
        """Start a pass over many jobs."""
        phase = PlainPhase(name, total, done)
        if done < total:
            self.say(f"{name}: {total} in all, {done} done before")
        yield phase
        if done < total:
            self.say(f"{name}: {phase.done} of {total}")


class PlainPhase:
    """Prints a line every ten seconds."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self.name, self.total, self.done = name, total, done
        self._last = time.monotonic()

    def working(self, job: object, stage: str, fraction: float) -> None:
        """Show the progress of a running job."""
        self._now_and_then(f"{job}: {stage} {fraction:.0%}")

    def step(self, text: str) -> None:
        """Count a finished job."""
        self.done += 1
        self._now_and_then(text)

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._last > _QUIET_S:
            self._last = time.monotonic()
            print(f"{self.name}: {self.done} of {self.total}; {text}", flush=True)


class RichReporter:
    """Bars on a terminal."""

    def __init__(self, console: "Console") -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False, highlight=False)

    def refused(self, refusal: Refusal) -> None:
        """Print a refusal."""
        self.say(_line(refusal))

    @contextmanager
    def phase(self, name: str, total: int, *, done: int = 0) -> Iterator[Phase]:
        """Start a pass over many jobs."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=self._console) as bars:
            yield RichPhase(bars, bars.add_task(name, total=total, completed=done, note=""))


class RichPhase:
    """One bar with a note about the current job."""

    def __init__(self, bars: "Progress", task: "TaskID") -> None:
        self._bars, self._task = bars, task

    def working(self, job: object, stage: str, fraction: float) -> None:
        """Show the progress of a running job."""
        self._bars.update(self._task, note=f"{job}: {stage} {fraction:.0%}")

    def step(self, text: str) -> None:
        """Count a finished job."""
        self._bars.update(self._task, advance=1, note=text)


def _line(refusal: Refusal) -> str:
    hint = f" ({refusal.hint})" if refusal.hint else ""
    return f"{refusal.status}: {place(refusal)}: {refusal.reason}{hint}"


def place(refusal: Refusal) -> str:
    """Video and frames of a refusal."""
    if refusal.start_frame is None or refusal.num_frames is None:
        return refusal.source
    return f"{refusal.source} [{refusal.start_frame}:{refusal.start_frame + refusal.num_frames}]"


def print_summary(summary: "RunSummary", console: "Console") -> None:
    """The account of a run: counts by outcome and reason, then what was left out, by name."""
    from rich.table import Table

    table = Table(title=f"{summary.videos} videos, {summary.clips + summary.measured + len(summary.refusals)} outcomes")
    for heading in ("outcome", "count", "detail"):
        table.add_column(heading, justify="right" if heading == "count" else "left")
    grades = ", ".join(f"{count} {letter}" for letter, count in summary.grades.items())
    table.add_row("kept", str(summary.clips), f"{summary.frames} frames; grades: {grades or '-'}")
    if summary.measured:
        table.add_row("measured", str(summary.measured), "scores without geometry, in scores.parquet")
    codes = Counter((refusal.status, refusal.code) for refusal in summary.refusals)
    for status in ("filtered", "refused", "failed"):
        for (found, code), count in sorted(codes.items()):
            if found == status:
                table.add_row(status, str(count), code)
    console.print(table)
    bad = [refusal for refusal in summary.refusals if refusal.status != "filtered"]
    for refusal in bad[:_LISTED]:
        console.print(_line(refusal), markup=False, highlight=False)
    if len(bad) > _LISTED:
        console.print(f"... and {len(bad) - _LISTED} more; all of them are in refusals.jsonl")
    if summary.clips and not summary.captioned:
        console.print(
            "no clip has a caption: write NAME.txt beside NAME.mp4, or metadata.csv with the columns video and prompt, "
            "or give --captioner",
            highlight=False,
        )
    if summary.seconds:
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.seconds.items())
        console.print(f"{summary.new_clips} clips annotated now; CPU time: {spent}", highlight=False)
