"""What a worker drives: something that makes a world from a task, step by step, into a folder."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fw_geometry.camera import Trajectory
from fw_serve.jobs.model import ModelCard, WorldRequest


class OutOfMemoryError(Exception):
    """The device or the machine has not enough memory for this task; others may fit."""


class JobError(Exception):
    """This task cannot be done; the message is for the person who asked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JobInputs:
    """One job, as an engine needs it."""

    request: WorldRequest
    """What was asked for."""
    image: Path
    """The first frame, an RGB PNG."""
    camera: Trajectory
    """The camera path."""


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """A report between two steps."""

    stage: str
    """encode, denoise, decode or export."""
    step: int
    """Steps of the stage that are done."""
    steps: int
    """Steps of the stage in all."""
    eta_seconds: float | None = None
    """Estimate of the time left."""


class JobEngine(Protocol):
    """Makes worlds."""

    @property
    def card(self) -> ModelCard:
        """Name and defaults of the model."""
        ...

    def run(self, task: JobInputs, folder: Path) -> Generator[JobProgress, None, None]:
        """Make the world and write its files into `folder`, which is empty; closing the generator stops it.

        Raises:
            JobError: the task cannot be done.
            OutOfMemoryError: not enough memory.
        """
        ...

    def recover(self) -> None:
        """Free what a failed or stopped task left behind."""
        ...
