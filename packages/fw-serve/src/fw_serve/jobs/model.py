"""What a job is: its request, its state, and which state may follow which.

Times are seconds since 1970 (float). Sizes are pixels.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["queued", "in_progress", "completed", "failed", "deleted"]
"""`deleted` is a tombstone: it is never shown, and remembers that a key was used until it is purged."""

TERMINAL: frozenset[str] = frozenset({"completed", "failed", "deleted"})
"""States in which nothing runs any more."""

TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    {
        ("queued", "in_progress"),  # a worker takes it
        ("queued", "failed"),  # cancelled while waiting
        ("queued", "deleted"),
        ("in_progress", "queued"),  # its worker was lost or is being stopped
        ("in_progress", "completed"),
        ("in_progress", "failed"),
        ("in_progress", "deleted"),
        ("completed", "deleted"),
        ("failed", "deleted"),
    }
)
"""Every change of state that can happen."""


class WorldRequest(BaseModel):
    """What was asked for, checked and complete but for the settings left to the model (None)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    """What the world shows."""
    model: str
    """Name of the model that answers."""
    frames: int
    """Clip length, 4 n + 1."""
    width: int
    """Columns, a multiple of 16."""
    height: int
    """Rows, a multiple of 16."""
    seconds: str
    """Length as it was asked for, or that of the frames."""
    camera: str
    """What moves the camera, in a word: a preset's name, `keyframes`, `poses` or `file`."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance on the text."""
    seed: int = 0
    """Seed of the noise."""
    negative_prompt: str | None = None
    """What guidance moves away from."""
    sampler: str | None = None
    """euler or unipc."""
    scene_scale: float = 1.0
    """Mean distance of what the picture shows, in the camera path's unit."""
    easycache: float | None = None
    """Threshold of step reuse."""


class ModelCard(BaseModel):
    """What a worker says about the model it holds; the defaults of requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What `model` in requests and answers says."""
    frames: int
    """Default clip length."""
    width: int
    """Default columns."""
    height: int
    """Default rows."""
    fps: float
    """Frames per second."""
    steps: int
    """Default denoising steps."""
    guidance: float
    """Default guidance."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to be put into the queue."""

    id: str
    """Unguessable name."""
    owner: str
    """Id of the API key that owns it; empty where no keys are used."""
    request: WorldRequest
    """What is asked for."""
    remixed_from: str | None = None
    """The job it was made from."""
    idempotency_key: str | None = None
    """The client's name for this creation: a second one with the same name gives the same job."""
    fingerprint: str = ""
    """Digest of all that the client sent, to tell a repetition from another request under the same name."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as the store holds it."""

    id: str
    """Unguessable name."""
    seq: int
    """Order of arrival, from 1."""
    owner: str
    """Id of the API key that owns it."""
    status: Status
    """Its state."""
    request: WorldRequest
    """What was asked for."""
    created_at: float
    """When it was accepted."""
    started_at: float | None
    """When its latest attempt began."""
    finished_at: float | None
    """When it was completed, failed or deleted."""
    expires_at: float | None
    """When its files will be removed."""
    attempts: int
    """How often it was begun."""
    lease: str | None
    """Token of the attempt that may write to it; None unless in_progress."""
    worker: str | None
    """Who runs it, or ran it last."""
    stage: str | None
    """encode, denoise, decode or export."""
    step: int
    """Steps of the stage that are done."""
    steps: int
    """Steps of the stage in all."""
    progress: int
    """Per cent, never falling within an attempt; 100 when completed."""
    eta_seconds: float | None
    """Estimate of the time left, as of the latest report."""
    error_code: str | None
    """Why it failed, for programs."""
    error_message: str | None
    """Why it failed, for people."""
    result: str | None
    """Folder name of the results."""
    remixed_from: str | None
    """The job it was made from."""
    position: int | None = None
    """Place in the queue, 1 for the next one to be taken; None where it does not wait, and in lists."""

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in TERMINAL


def job_of_row(row: Any) -> Job:
    """A job from a row of the jobs table."""
    values = dict(row._mapping)
    request = WorldRequest.model_validate_json(values.pop("request"))
    fields = Job.__dataclass_fields__
    return Job(request=request, **{name: value for name, value in values.items() if name in fields})
