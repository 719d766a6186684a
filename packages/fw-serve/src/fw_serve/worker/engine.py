"""Interface between a worker and the model: one job in, progress reports and a folder of files out."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fw_geometry.camera import Trajectory
from fw_serve.jobs.model import ModelCard, WorldRequest


class OutOfMemoryError(Exception):
    """The device or machine has too little memory for this job; smaller ones may fit."""


class EngineLostError(Exception):
    """The processes that generate together are out of step: the worker must be replaced. The job may be fine."""


class JobError(Exception):
    """The job cannot be done; the message is for its sender."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JobInputs:
    """Inputs of one job."""

    request: WorldRequest
    """Validated request."""
    image: Path
    """The first frame, an RGB PNG."""
    camera: Trajectory
    """The camera path."""


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Progress report between two steps."""

    stage: str
    """encode, denoise, decode or export."""
    step: int
    """Completed steps of the stage."""
    steps: int
    """Number of steps of the stage."""
    eta_seconds: float | None = None
    """Estimated time left."""
    preview: bytes | None = None
    """A JPEG of the frames as denoised so far."""
    notes: tuple[str, ...] = ()
    """With the last report: changes to the inputs, those of the request first, and parts without effect."""


class JobEngine(Protocol):
    """Generates worlds."""

    @property
    def card(self) -> ModelCard:
        """The loaded model; its memory figures grow with the jobs it has run."""
        ...

    def run(self, task: JobInputs, folder: Path) -> Generator[JobProgress, None, None]:
        """Generate the world into the empty `folder`; closing the generator stops it.

        Raises:
            JobError: the job cannot be done.
            OutOfMemoryError: not enough memory.
            EngineLostError: another process of the worker ended, or is out of step.
        """
        ...

    def recover(self) -> None:
        """Free memory after a failed or stopped job. Raises EngineLostError if no other job can run."""
        ...

    def follow(self) -> None:
        """Take part in the jobs of the worker's first process, until it ends. Raises what `run` raises."""
        ...
