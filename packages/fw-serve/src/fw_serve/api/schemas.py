"""Requests and responses of the API: the format of the OpenAI Videos API, with extensions."""

import ast
import dataclasses
import inspect
import re
from itertools import pairwise
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
)

from fw_model.pipeline.settings import GenerationSettings
from fw_serve.jobs.model import Job


def _like(pattern: str, example: str) -> AfterValidator:
    """Check that a text matches a pattern; the error shows an example."""

    def check(text: str) -> str:
        if len(text) > 12 or not re.fullmatch(pattern, text):
            raise ValueError(f"write it like {example}; got {text[:20]!r}")
        return text

    return AfterValidator(check)


_SIZE = r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}"
_SECONDS = r"[0-9]{1,3}(\.[0-9]{1,3})?"
Size = Annotated[
    str,
    _like(_SIZE, "96x64 (WIDTHxHEIGHT)"),
    WithJsonSchema({"type": "string", "maxLength": 12, "pattern": f"^{_SIZE}$"}),
]
Seconds = Annotated[
    str,
    _like(_SECONDS, "4 or 1.5"),
    WithJsonSchema({"type": "string", "maxLength": 12, "pattern": f"^{_SECONDS}$"}),
]
VideoId = Annotated[str, Field(examples=["video_3f6c0e9d2b7a4c518e90ab12"])]


class VideoError(BaseModel):
    """Why a video failed."""

    code: str = Field(
        description="Machine-readable: out_of_memory, worker_lost, cancelled, timed_out, invalid_request, ..."
    )
    message: str = Field(description="Human-readable.")


class Video(BaseModel):
    """A generation job. The fields of OpenAI come first, then the extensions."""

    id: VideoId
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100, description="Percent; never decreases within an attempt.")
    created_at: int = Field(description="Seconds since 1970.")
    completed_at: int | None = None
    expires_at: int | None = Field(default=None, description="When the files will be removed.")
    prompt: str
    seconds: str = Field(description="Requested length.")
    size: str = Field(description="WIDTHxHEIGHT.", examples=["592x336"])
    remixed_from_video_id: str | None = None
    extended_from_video_id: str | None = None
    error: VideoError | None = None
    num_frames: int
    seed: int
    camera: str = Field(description="A preset's name, keyframes, poses or file.")
    stage: str | None = Field(default=None, description="encode, denoise, decode or export.")
    step: int = 0
    steps: int = 0
    eta_seconds: float | None = None
    queue_position: int | None = Field(default=None, description="1 is next; null in lists and when not queued.")
    attempts: int = Field(default=0, description="Number of attempts so far, without those an operator interrupted.")
    priority: int = Field(default=0, description="Jobs of higher priority run first.")
    lora: str | None = None
    notes: list[str] = Field(
        default_factory=list,
        description="Changes to the inputs, such as an image turned upright or a prompt that was too long. "
        "Complete when the video is completed.",
    )
    shared: bool = Field(default=False, description="Whether a read-only link exists.")

    @classmethod
    def of(cls, job: Job) -> "Video":
        """The response for a job."""
        request = job.request
        num_frames, height, width = request.shape
        failed = job.status == "failed"
        return cls(
            id=job.id,
            model=request.model,
            status="failed" if job.status == "deleted" else job.status,
            progress=job.progress,
            created_at=int(job.created_at),
            completed_at=int(job.finished_at) if job.status == "completed" and job.finished_at else None,
            expires_at=None if job.expires_at is None else int(job.expires_at),
            prompt=request.prompt,
            seconds=request.seconds,
            size=f"{width}x{height}",
            remixed_from_video_id=job.remixed_from,
            extended_from_video_id=job.extended_from,
            error=VideoError(code=job.error_code or "unknown", message=job.error_message or "") if failed else None,
            num_frames=num_frames,
            seed=request.settings.seed,
            camera=request.camera,
            stage=job.stage,
            step=job.step,
            steps=job.steps,
            eta_seconds=job.eta_seconds,
            queue_position=job.position,
            attempts=job.attempts,
            priority=job.priority,
            lora=request.lora,
            notes=list(request.notes),
            shared=job.share is not None,
        )


class VideoList(BaseModel):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """Confirmation of a deletion."""

    id: VideoId
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class ErrorBody(BaseModel):
    """Details of an error."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: ErrorBody


class ImageReference(BaseModel):
    """An image URL."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = Field(
        max_length=20_971_520,
        description="data:image/png;base64,..., or an https address if the operator allows its host.",
    )


_BOUNDS: dict[str, dict[str, Any]] = {
    "num_frames": {"ge": 1, "le": 100_000, "examples": [17]},
    "num_inference_steps": {"ge": 1, "le": 1000, "examples": [20]},
    "guidance_scale": {"ge": 0, "le": 100},
    "negative_prompt": {"max_length": 32_000},
    "shift": {"gt": 0, "le": 100},
    "timesteps": {"min_length": 1, "max_length": 1000, "examples": [[1000, 750, 500, 250]]},
    "seed": {"ge": 0, "le": 2**53 - 1},
    "scene_scale": {"gt": 0, "le": 1e6},
    "easycache": {"gt": 0, "le": 1},
}
"""Narrower bounds than those of `GenerationSettings`, for untrusted input."""


def _settings_fields() -> dict[str, Any]:
    """Fields of `GenerationSettings` for a pydantic model; `size` takes the place of width and height."""
    (definition,) = ast.parse(inspect.getsource(GenerationSettings)).body
    assert isinstance(definition, ast.ClassDef)
    notes = {
        ast.unparse(field.target): " ".join(ast.literal_eval(note.value).split())
        for field, note in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr)
    }
    types = get_type_hints(GenerationSettings)
    made = {
        field.name: Field(default=field.default, description=notes[field.name], **_BOUNDS.get(field.name, {}))
        for field in dataclasses.fields(GenerationSettings)
        if field.name not in ("width", "height")
    }
    return {name: (types[name], field) for name, field in made.items()}


_SETTINGS = create_model("SettingsFields", __config__=ConfigDict(extra="forbid"), **_settings_fields())


class CreateVideo(_SETTINGS):
    """A world to generate. Everything except the prompt and the image has a default."""

    prompt: str = Field(min_length=1, max_length=32_000, description="Text that describes the world.")
    input_reference: ImageReference | None = Field(
        default=None, description="The first frame. In a form, this is the file part."
    )
    model: str | None = Field(default=None, max_length=120, description="Name of the model. Default: the one served.")
    seconds: Seconds | None = Field(
        default=None, description="Length of the clip, instead of num_frames.", examples=["4"]
    )
    size: Size | None = Field(default=None, description="WIDTHxHEIGHT, both multiples of 16.", examples=["592x336"])
    lora: str | None = Field(default=None, max_length=80, description="Name of a LoRA that the model's card lists.")
    priority: int = Field(
        default=0, ge=0, le=100, description="Jobs of higher priority run first, up to the limit of the API key."
    )
    webhook: str | None = Field(
        default=None, max_length=2048,
        description="https URL to notify at the end, if the operator allows its host.",
    )  # fmt: skip
    camera_trajectory: str | dict[str, Any] | None = Field(
        default=None,
        description="The camera path as JSON text, or as an object in a JSON body: "
        '{"preset": "orbit", "angle_deg": 30}, {"keyframes": [...]}, {"poses_c2w": [...]}, the released camera JSON, '
        "or transforms.json. Default: an orbit.",
        examples=['{"preset": "orbit", "angle_deg": 30}'],
    )

    @field_validator("prompt", "negative_prompt", "model", "camera_trajectory")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if isinstance(value, str) and ("\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value)):
            raise ValueError("the text has characters that are not text (NUL, or half of a surrogate pair)")
        return value

    @field_validator("timesteps", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A JSON list, or text of a form: numbers between commas."""
        if isinstance(value, str):
            try:
                value = [float(word) for word in value.split(",")]
            except ValueError:
                raise ValueError("give numbers between commas, such as 1000,750,500,250") from None
        return tuple(value) if isinstance(value, list) else value

    @field_validator("timesteps")
    @classmethod
    def _falling(cls, value: tuple[float, ...] | None, others: ValidationInfo) -> tuple[float, ...] | None:
        GenerationSettings(timesteps=value, num_inference_steps=others.data.get("num_inference_steps")).validate()
        return value

    def settings(self) -> GenerationSettings:
        """The generation settings, without the size."""
        names = {field.name for field in dataclasses.fields(GenerationSettings)}
        return GenerationSettings(**self.model_dump(include=names))


class Remix(BaseModel):
    """A new prompt for the same image, camera path and settings."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=32_000)

    _text = field_validator("prompt")(lambda value: CreateVideo._text(value))


class Extend(BaseModel):
    """How a completed world continues."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = Field(default=None, min_length=1, max_length=32_000, description="Default: the same prompt.")
    camera_trajectory: str | dict[str, Any] | None = Field(
        default=None, description="Camera path from the last camera on. Default: the same motion again.",
        examples=[{"preset": "dolly"}],
    )  # fmt: skip
    seed: int | None = Field(default=None, ge=0, le=2**53 - 1, description="Default: the same seed.")

    _text = field_validator("prompt", "camera_trajectory")(lambda value: CreateVideo._text(value))


class ShareLink(BaseModel):
    """A read-only link, which needs no API key."""

    id: VideoId
    object: Literal["video.share"] = "video.share"
    token: str = Field(description="Shown once; stored as a digest.")
    path: str = Field(description="Path of the shared video in the API.")


class Estimate(BaseModel):
    """Expected cost of a creation."""

    object: Literal["video.estimate"] = "video.estimate"
    model: str
    num_frames: int
    size: str
    num_inference_steps: int
    seconds: float | None = Field(description="Running time, from earlier jobs; null before the first one.")
    queue_position: int = Field(description="Position that the job would have now.")
    queue_seconds: float | None = Field(description="Time in the queue; null before the first job.")
    memory_bytes: int | None = Field(description="Peak memory: planned, then from earlier jobs.")
    memory_available_bytes: int | None = Field(description="Memory of the device; null if unknown.")


class TrajectoryRequest(BaseModel):
    """A camera path to validate or preview."""

    model_config = ConfigDict(extra="forbid")

    camera_trajectory: str | dict[str, Any] = Field(examples=[{"preset": "orbit", "angle_deg": 30}])
    num_frames: int | None = Field(default=None, strict=True, ge=1, le=1024, examples=[17])
    size: Size | None = Field(default=None, examples=["592x336"])


class TrajectoryReport(BaseModel):
    """Validity and key figures of a camera path."""

    valid: bool
    message: str | None = Field(default=None, description="Why the path is invalid.")
    kind: str | None = None
    num_frames: int | None = None
    path_length: float | None = Field(default=None, description="In the unit of the path.")
    turn_deg: float | None = Field(default=None, description="Sum of the angles between consecutive views.")
    units: Literal["scene", "metric"] | None = None


class TrajectoryPreview(TrajectoryReport):
    """All cameras of a path, relative to the first: OpenCV axes, camera-to-world."""

    width: int
    height: int
    K: list[list[list[float]]] = Field(description="3 x 3 per frame, pixels of width x height.")
    pose_c2w: list[list[list[float]]] = Field(description="4 x 4 per frame.")


class PresetInfo(BaseModel):
    """A camera preset."""

    preset: str
    description: str
    angle_deg: float | None = Field(description="Default angle; null if the motion has none.")
    distance: float | None = Field(description="Default distance in mean scene distances; null if it has none.")


class PresetList(BaseModel):
    """All camera presets."""

    object: Literal["list"] = "list"
    data: list[PresetInfo]


class Model(BaseModel):
    """A model and its default settings."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "fantasy-world"
    num_frames: int
    size: str
    fps: float
    num_inference_steps: int
    guidance_scale: float
    about: str = Field(default="", description="Training data, and the results to expect.")
    loras: list[str] = Field(default_factory=list, description="LoRAs that a request may choose.")


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """State of the service."""

    status: Literal["ok", "unavailable"]
    workers: dict[str, int] = Field(default_factory=dict, description="Number of workers by state.")
    message: str | None = None
    disk_free_bytes: int | None = Field(default=None, description="Free space of the data folder.")
