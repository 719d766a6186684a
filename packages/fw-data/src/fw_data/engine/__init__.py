"""Execution engines: an engine takes one task and many jobs and yields every job, done or failed.

`local` has processes on this machine, `ray` has actors on a cluster; both give the same results.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

J = TypeVar("J")
R = TypeVar("R")
J_contra = TypeVar("J_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

JobProgress = Callable[[str, float], None]
"""Called by a task with the name of its stage and the fraction done."""


@runtime_checkable
class JobTask(Protocol[J_contra, R_co]):
    """A picklable callable; heavy things are made on the first call in each process."""

    def __call__(self, job: J_contra, progress: JobProgress) -> R_co:
        """Do one job and return its result."""
        ...


@dataclass(frozen=True, kw_only=True)
class Done(Generic[J, R]):
    """One job that has ended."""

    job: J
    """As given."""
    value: R | None = None
    """Result of the task; None if it failed."""
    error: str | None = None
    """The error in one line, if the task raised or its process died."""


@runtime_checkable
class ExecutionEngine(Protocol):
    """Runs a task over jobs."""

    def run(
        self, task: JobTask[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None]
    ) -> Iterator[Done[J, R]]:
        """Every job exactly once, in the order they end. Closing the iterator stops the work."""
        ...
