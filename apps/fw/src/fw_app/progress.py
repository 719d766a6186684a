"""Progress of `fw generate`: bars on a terminal, else lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from fw_model.pipeline.result import Progress as Report
    from fw_model.pipeline.result import World


def show(reports: "Iterator[Report]") -> "World":
    """Run one generation and show its progress: a bar on a terminal, else one line per stage."""
    world = None
    with _bars() as bars:
        stages = StageBar(bars, lines=not bars.console.is_terminal)
        for report in reports:
            stages.update(report)
            world = report.world or world
    assert world is not None, "a generation ends with a world"
    return world


class StageBar:
    """The bar of the stage that runs now.

    Args:
        bars: where it is shown.
        lines: print a line per stage.
    """

    def __init__(self, bars: Progress, *, lines: bool) -> None:
        self._bars, self._lines = bars, lines
        self._task = bars.add_task("start", total=None)
        self._stage: tuple[object, ...] = ()

    def update(self, report: "Report") -> None:
        """Show a report."""
        stage = (report.segment, report.stage)
        if stage != self._stage:
            self._stage = stage
            part = f"segment {report.segment + 1}/{report.segments} " if report.segments > 1 else ""
            self._bars.reset(self._task, total=report.steps, description=part + report.stage)
            if self._lines:
                print(f"{part}{report.stage}: {report.steps} steps", flush=True)
        self._bars.update(self._task, completed=report.step)


class BatchBar:
    """Two bars: the worlds of a batch with the time left, and the stage that runs now. Lines stay above them."""

    def __init__(self, bars: Progress, worlds: TaskID) -> None:
        self._bars, self._worlds = bars, worlds
        self.stages = StageBar(bars, lines=False)

    def done(self) -> None:
        """Count a world, finished or failed."""
        self._bars.advance(self._worlds)


@contextmanager
def batch_bar(worlds: int) -> Iterator[BatchBar]:
    """Show the progress of a batch on a terminal; elsewhere nothing."""
    with _bars() as bars:
        yield BatchBar(bars, bars.add_task("worlds", total=worlds))


def _bars() -> Progress:
    console = Console()
    columns = (TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, disable=not console.is_terminal)
