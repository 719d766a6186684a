"""Jobs: the request, the state, and the allowed changes of state.

Times are seconds since 1970 (float). Sizes are pixels.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fw_model.pipeline.settings import GenerationSettings, Sampling, current_names

Status = Literal["queued", "in_progress", "completed", "failed", "deleted"]
"""`deleted` is a tombstone: it is never shown, and keeps the idempotency key reserved until it is purged."""

REQUEST_VERSION = 1
"""Version of `WorldRequest`. A worker takes no jobs of a newer version."""

TERMINAL: frozenset[str] = frozenset({"completed", "failed", "deleted"})
"""Final states."""

TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    {
        ("queued", "in_progress"),  # a worker claims it
        ("queued", "failed"),  # cancelled in the queue
        ("queued", "completed"),  # by an attempt that was cut off from the database for longer than its lease
        ("queued", "deleted"),
        ("in_progress", "queued"),  # its worker was lost or stopped
        ("in_progress", "completed"),
        ("in_progress", "failed"),
        ("in_progress", "deleted"),
        ("completed", "deleted"),
        ("failed", "deleted"),
    }
)
"""Every allowed change of state."""


def _with_settings(data: Any, own: Collection[str]) -> Any:
    """A record whose settings, in earlier versions, are beside the other fields."""
    if not isinstance(data, dict) or "settings" in data:
        return data
    kept = {name: value for name, value in data.items() if name in own}
    rest = {name: value for name, value in data.items() if name not in kept}
    return {**kept, "settings": current_names(rest)}


class _Stored(BaseModel):
    """A stored record with settings. Records of earlier versions, which have the settings beside the rest, load too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, data: Any) -> Any:
        return _with_settings(data, cls.model_fields)

    @classmethod
    def stored(cls, text: str) -> Self:
        """A record that any version wrote. Fields that this version does not know are left out.

        Raises:
            ValidationError: a field has an invalid value.
        """
        data = _with_settings(json.loads(text), cls.model_fields)
        known = {name: value for name, value in data.items() if name in cls.model_fields}
        settings_type: Any = cls.model_fields["settings"].annotation
        names = {field.name for field in fields(settings_type)}
        known["settings"] = {name: value for name, value in known["settings"].items() if name in names}
        try:
            return cls.model_validate(known)
        except ValidationError:  # a value of a newer version, such as the name of a new sampler
            plain = ("num_frames", "width", "height", "seed")
            known["settings"] = {name: known["settings"][name] for name in plain if name in known["settings"]}
            return cls.model_validate(known)


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
    lora: str | None = None
    """Name of a LoRA of the model's card."""
    notes: tuple[str, ...] = ()
    """Changes to the inputs and parts of them without effect; those that the model makes follow with the result."""
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
        return self.model_copy(update={"prompt": "", "settings": settings, "notes": ()})


class ModelCard(_Stored):
    """A model that a worker has loaded."""

    name: str
    """Name in requests and responses."""
    settings: Sampling
    """Default settings: the size, length and steps that the model was trained for."""
    about: str = ""
    """One or two sentences for users: training data, and the results to expect."""
    loras: tuple[str, ...] = ()
    """Names of the LoRAs that a request may use."""
    order: int = 0
    """Position among the models of the service; the first is the default of requests."""
    memory_bytes: int | None = None
    """Memory of the device; None if unknown."""
    fixed_bytes: int = 0
    """Memory of the loaded model."""
    pixel_bytes: float = Field(default=0.0, ge=0)
    """Peak memory beyond the model per pixel of the clip (frames x height x width); 0 if unknown. Planned until
    a job was measured."""
    measured_pixels: int = 0
    """Pixels of the largest clip measured; 0 if the figures are planned."""

    def peak_bytes(self, num_frames: int, height: int, width: int) -> int | None:
        """Estimated peak memory of a job; None if unknown."""
        if not self.pixel_bytes:
            return None
        return self.fixed_bytes + int(self.pixel_bytes * num_frames * height * width)


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to create."""

    id: str
    """Unguessable id."""
    owner: str
    """Id of the API key that owns it; empty if the service uses no keys."""
    request: WorldRequest
    """Validated request."""
    bytes: int = 0
    """Size of the input files."""
    priority: int = 0
    """Jobs of higher priority run first."""
    remixed_from: str | None = None
    """Job whose image and path it uses with another prompt."""
    extended_from: str | None = None
    """Job whose last frame it starts from."""
    webhook: str | None = None
    """URL to notify at the end."""
    idempotency_key: str | None = None
    """A second creation with the same key returns the same job."""
    fingerprint: str = ""
    """Digest of the whole request, to tell a repetition from another request with the same key."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as stored."""

    id: str
    """Unguessable id."""
    seq: int
    """Order of arrival, from 1."""
    owner: str
    """Id of the API key that owns it."""
    status: Status
    """State."""
    request: WorldRequest
    """Validated request."""
    created_at: float
    """Time of creation."""
    started_at: float | None
    """Time when the latest attempt began."""
    finished_at: float | None
    """Time when it was completed, failed or deleted."""
    expires_at: float | None
    """Time when its files will be removed."""
    attempts: int
    """Number of attempts, not counting those that an operator interrupted."""
    lease: str | None
    """Token of the attempt that may write to it; None unless in_progress or recently lost."""
    worker: str | None
    """Name of the current or latest worker."""
    stage: str | None
    """encode, denoise, decode or export."""
    step: int
    """Completed steps of the stage."""
    steps: int
    """Number of steps of the stage."""
    progress: int
    """Percent, never decreasing within an attempt; 100 when completed."""
    eta_seconds: float | None
    """Estimated time left, as of the latest report."""
    error_code: str | None
    """Machine-readable reason of a failure."""
    error_message: str | None
    """Human-readable reason of a failure."""
    result: str | None
    """Name of the result folder."""
    remixed_from: str | None
    """Job that it was remixed from."""
    extended_from: str | None
    """Job that it continues."""
    priority: int
    """Jobs of higher priority run first."""
    bytes: int
    """Size of its files."""
    share: str | None
    """Digest of the token of its read-only link."""
    webhook: str | None
    """URL to notify at the end."""
    position: int | None = None
    """Position in the queue, 1 for the next; None if not queued, and in lists."""

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.status in TERMINAL


def job_of_row(row: Any) -> Job:
    """A job from a row of the jobs table, also one of a newer version."""
    values = dict(row._mapping)
    request = WorldRequest.stored(values.pop("request"))
    names = Job.__dataclass_fields__
    return Job(request=request, **{name: value for name, value in values.items() if name in names})
