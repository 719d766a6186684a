"""What a job is: its request, its state, and which state may follow which.

Times are seconds since 1970 (float). Sizes are pixels.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from fw_model.pipeline.settings import GenerationSettings, Sampling, current_names

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


class _Stored(BaseModel):
    """A stored record with settings. Records of earlier versions, which have the settings beside the rest, load too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "settings" in data:
            return data
        own = {name: value for name, value in data.items() if name in cls.model_fields}
        rest = {name: value for name, value in data.items() if name not in own}
        return {**own, "settings": current_names(rest)}


class WorldRequest(_Stored):
    """A validated request. Settings that are None are left to the model, except the number of frames and the size."""

    prompt: str
    """Text that describes the world."""
    model: str
    """Name of the model."""
    seconds: str
    """Length as requested, or that of the frames."""
    camera: str
    """Kind of camera path: the name of a preset, `keyframes`, `poses` or `file`."""
    settings: GenerationSettings
    """Generation settings; num_frames, width and height are always set."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of frames, height and width."""
        num_frames, height, width = self.settings.num_frames, self.settings.height, self.settings.width
        assert num_frames is not None
        assert height is not None
        assert width is not None
        return num_frames, height, width

    def without_text(self) -> "WorldRequest":
        """The request without the texts that a user wrote."""
        settings = self.settings.updated(negative_prompt=None)
        return self.model_copy(update={"prompt": "", "settings": settings})


class ModelCard(_Stored):
    """A model that a worker has loaded."""

    name: str
    """Name in requests and responses."""
    settings: Sampling
    """Default settings."""


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
