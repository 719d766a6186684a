"""Where the work runs. An engine takes one task and many jobs and gives every job back, done or failed.

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
        """Do one job."""
        ...


@dataclass(frozen=True, kw_only=True)
class Done(Generic[J, R]):
    """One job that has ended."""

    job: J
    """As given."""
    value: R | None = None
    """What the task returned; None when it failed."""
    error: str | None = None
    """What went wrong, in one line, when the task raised or its process died."""


@runtime_checkable
class JobEngine(Protocol):
    """Runs a task over jobs."""

    def run(
        self, task: JobTask[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None]
    ) -> Iterator[Done[J, R]]:
        """Every job exactly once, in the order they end. Closing the iterator stops the work."""
        ...
