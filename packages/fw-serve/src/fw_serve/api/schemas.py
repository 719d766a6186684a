"""The words of the API: what comes in and what goes out, in the shape of the OpenAI Videos API and beyond it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fw_serve.jobs.model import Job

VideoId = Annotated[str, Field(examples=["video_3f6c0e9d2b7a4c518e90ab12"])]


class VideoError(BaseModel):
    """Why a video failed."""

    code: str = Field(
        description="For programs: out_of_memory, worker_lost, cancelled, timed_out, invalid_request, ..."
    )
    message: str = Field(description="For people.")


class Video(BaseModel):
    """A job and, once it is completed, its world. OpenAI's fields first, ours after them."""

    id: VideoId
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100, description="Per cent; never falls within an attempt.")
    created_at: int = Field(description="Seconds since 1970.")
    completed_at: int | None = None
    expires_at: int | None = Field(default=None, description="When the files are removed.")
    prompt: str
    seconds: str = Field(description="Length as it was asked for.")
    size: str = Field(description="WIDTHxHEIGHT.", examples=["592x336"])
    remixed_from_video_id: str | None = None
    error: VideoError | None = None
    frames: int
    seed: int
    camera: str = Field(description="A preset's name, keyframes, poses or file.")
    stage: str | None = Field(default=None, description="encode, denoise, decode or export.")
    step: int = 0
    steps: int = 0
    eta_seconds: float | None = None
    queue_position: int | None = Field(default=None, description="1 is next; null in lists and when not queued.")
    attempts: int = Field(default=0, description="How often a worker began it.")

    @classmethod
    def of(cls, job: Job) -> "Video":
        """A job in the words of the API."""
        request = job.request
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
            size=f"{request.width}x{request.height}",
            remixed_from_video_id=job.remixed_from,
            error=VideoError(code=job.error_code or "unknown", message=job.error_message or "") if failed else None,
            frames=request.frames,
            seed=request.seed,
            camera=request.camera,
            stage=job.stage,
            step=job.step,
            steps=job.steps,
            eta_seconds=job.eta_seconds,
            queue_position=job.position,
            attempts=job.attempts,
        )


class VideoList(BaseModel):
    """A part of a list."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """A video that is gone."""

    id: VideoId
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """Every error has this shape."""

    error: ErrorBody


class ImageReference(BaseModel):
    """A picture by address."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = Field(
        max_length=20_971_520,
        description="data:image/png;base64,..., or an https address if the operator allows its host.",
    )


class CreateVideo(BaseModel):
    """What a world is made of. Everything but the prompt and the picture has a default."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=32_000, description="What the world shows.")
    input_reference: ImageReference | None = Field(
        default=None, description="The first frame. In a form this is the file part."
    )
    model: str | None = Field(default=None, max_length=120, description="Left out, the model that is served.")
    seconds: str | None = Field(
        default=None, max_length=12, pattern=r"^[0-9]{1,3}(\.[0-9]{1,3})?$", description="Length; or give frames.",
        examples=["4"],
    )  # fmt: skip
    size: str | None = Field(
        default=None, max_length=12, pattern=r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$",
        description="WIDTHxHEIGHT, both multiples of 16.", examples=["592x336"],
    )  # fmt: skip
    camera_trajectory: str | dict[str, Any] | None = Field(
        default=None,
        description="The camera path as a JSON text (an object is taken in JSON bodies): "
        '{"preset": "orbit", "angle_deg": 30}, {"keyframes": [...]}, {"poses_c2w": [...]}, the released camera JSON, '
        "or transforms.json. Left out, an orbit.",
        examples=['{"preset": "orbit", "angle_deg": 30}'],
    )
    frames: int | None = Field(default=None, ge=1, le=100_000, description="Clip length, 4 n + 1.", examples=[17])
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps.", examples=[20])
    guidance: float | None = Field(default=None, ge=0, le=100, description="Guidance on the text; 1 turns it off.")
    seed: int = Field(default=0, ge=0, le=2**53 - 1, description="The same seed gives the same world.")
    negative_prompt: str | None = Field(default=None, max_length=32_000, description="What guidance moves away from.")
    sampler: Literal["euler", "unipc"] | None = None
    scene_scale: float = Field(
        default=1.0, gt=0, le=1e6, description="Mean distance of what the picture shows, in the camera path's unit."
    )
    easycache: float | None = Field(default=None, gt=0, le=1, description="Threshold of step reuse; 0.02 to 0.2.")

    @field_validator("prompt", "negative_prompt", "model", "camera_trajectory")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if isinstance(value, str) and ("\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value)):
            raise ValueError("the text holds signs that are not text (NUL, or half of a surrogate pair)")
        return value


class Remix(BaseModel):
    """Another prompt for the same picture, camera path and settings."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=32_000)

    _text = field_validator("prompt")(lambda value: CreateVideo._text(value))


class TrajectoryRequest(BaseModel):
    """A camera path to look at before anything is made."""

    model_config = ConfigDict(extra="forbid")

    camera_trajectory: str | dict[str, Any] = Field(examples=[{"preset": "orbit", "angle_deg": 30}])
    frames: int | None = Field(default=None, strict=True, ge=1, le=1024, examples=[17])
    size: str | None = Field(
        default=None, max_length=12, pattern=r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$", examples=["592x336"]
    )


class TrajectoryReport(BaseModel):
    """Whether a path can be used, and what it does."""

    valid: bool
    message: str | None = Field(default=None, description="Why not.")
    kind: str | None = None
    frames: int | None = None
    path_length: float | None = Field(default=None, description="In the path's unit.")
    turn_deg: float | None = Field(default=None, description="Sum of the angles between neighbouring views.")
    units: Literal["scene", "metric"] | None = None


class TrajectoryPreview(TrajectoryReport):
    """The path, camera by camera. OpenCV axes, camera-to-world, relative to the first camera."""

    width: int
    height: int
    K: list[list[list[float]]] = Field(description="3 x 3 per frame, pixels of width x height.")
    pose_c2w: list[list[list[float]]] = Field(description="4 x 4 per frame.")


class Preset(BaseModel):
    """A motion by name."""

    preset: str
    description: str
    angle_deg: float | None = Field(description="Default angle; null if the motion has none.")
    distance: float | None = Field(description="Default distance in mean scene distances; null if it has none.")


class PresetList(BaseModel):
    """All motions."""

    object: Literal["list"] = "list"
    data: list[Preset]


class Model(BaseModel):
    """A model that is served, and its defaults."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "fantasy-world"
    frames: int
    size: str
    fps: float
    steps: int
    guidance: float


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """State of the service."""

    status: Literal["ok", "unavailable"]
    workers: dict[str, int] = Field(default_factory=dict, description="Number of workers by state.")
    message: str | None = None
