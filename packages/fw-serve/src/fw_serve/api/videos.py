"""/v1/videos: create, get, list, delete, cancel and remix, compatible with the OpenAI client."""

import re
import secrets
from io import BytesIO
from typing import Annotated, Any, Literal
from zipfile import BadZipFile, ZipFile

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from fw_geometry.continuation import continued
from fw_serve.api import create as creation
from fw_serve.api.bodies import body_schema, json_body, read_create_body
from fw_serve.api.create import check_priority
from fw_serve.api.errors import ApiError, answers, not_found
from fw_serve.api.schemas import CreateVideo, Estimate, Extend, Remix, ShareLink, Video, VideoDeleted, VideoList
from fw_serve.api.service import Caller, Callers, Service, Services, share_digest
from fw_serve.intake.camera import BadCameraError, StoredPath, read_camera
from fw_serve.jobs.errors import UnknownCursorError
from fw_serve.jobs.model import Job, ModelCard, NewJob, WorldRequest
from fw_serve.storage import StorageError

router = APIRouter(prefix="/v1/videos", tags=["videos"])

_ID = re.compile(r"video_[0-9a-f]{24}")
_SCHEMAS = "#/components/schemas/"

RemixBody = Annotated[Remix, Depends(json_body(Remix))]
ExtendBody = Annotated[Extend, Depends(json_body(Extend))]


def form_schema() -> dict[str, Any]:
    """The form of a creation, for OpenAPI: the fields of `CreateVideo`, images and cameras as files."""
    schema = CreateVideo.model_json_schema(ref_template=_SCHEMAS + "{model}")
    schema.pop("$defs", None)
    properties = schema["properties"] = {name: _in_a_form(part) for name, part in schema["properties"].items()}
    properties["input_reference"] = {
        "type": "string", "format": "binary", "description": "The first frame: PNG, JPEG or WebP.",
    }  # fmt: skip
    properties["camera_trajectory"] = {"type": "string", "description": properties["camera_trajectory"]["description"]}
    properties["camera_file"] = {
        "type": "string", "format": "binary",
        "description": "The camera path as a file: trajectory JSON, released JSON, transforms.json, RealEstate10K.",
    }  # fmt: skip
    return {**schema, "title": "CreateVideoForm", "required": ["prompt", "input_reference"]}


def _in_a_form(part: dict[str, Any]) -> dict[str, Any]:
    """A field of a form is left out or has a value; it cannot be null."""
    kinds = [kind for kind in part.get("anyOf", []) if kind.get("type") != "null"]
    rest = {name: value for name, value in part.items() if name not in ("anyOf", "default") or not kinds}
    return {**kinds[0], **rest} if kinds else rest


_CREATE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form_schema()},
            "application/json": {
                "schema": {"$ref": _SCHEMAS + "CreateVideo"},
                "example": {
                    "prompt": "a sunny room",
                    "input_reference": {"image_url": "data:image/png;base64,..."},
                    "camera_trajectory": {"preset": "orbit", "angle_deg": 30},
                },
            },
        },
    }
}


_ESTIMATE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": _SCHEMAS + "CreateVideo"}, "example": {"prompt": "a room"}}
        },
    }
}


@router.post(
    "", response_model=Video, openapi_extra=_CREATE_BODY, responses=answers(400, 401, 403, 413, 422, 429, 503, 507)
)
async def create_video(
    request: Request,
    service: Services,
    caller: Callers,
    idempotency_key: Annotated[
        str | None, Header(description="A repeated request with the same key returns the same job.")
    ] = None,
) -> Response:
    """Queue a world from an image, a prompt and a camera path."""
    job, fresh = await creation.create(request, service, caller, idempotency_key)
    answer = await run_in_threadpool(present, service, job)
    if not fresh:
        answer.headers["Idempotent-Replayed"] = "true"
    return answer


@router.post("/estimate", response_model=Estimate, openapi_extra=_ESTIMATE_BODY,
             responses=answers(400, 401, 403, 413, 503))  # fmt: skip
async def estimate_video(request: Request, service: Services, caller: Callers) -> Estimate:
    """Estimate the time, memory and queue of a creation without creating it. The image is not needed."""
    body = await read_create_body(request, service, image=False)

    def work() -> Estimate:
        card = service.model(body.fields.model)
        resolved, _ = creation.resolve(body, card, service.settings.limits)
        check_priority(caller, body.fields.priority)
        return _estimate(service, card, resolved)

    return await run_in_threadpool(work)


@router.get("", response_model=VideoList, responses=answers(400, 401, 403, 404))
def list_videos(
    service: Services,
    caller: Callers,
    after: Annotated[
        str | None, Query(description="Id of the last video of the previous page.", pattern=f"^{_ID.pattern}$")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """List your videos, newest first by default."""
    try:
        page = service.store.page(caller.owner, after=after, limit=limit, newest_first=order == "desc")
    except UnknownCursorError as error:
        raise ApiError(404, f"after: {error}.", code="video_not_found", param="after") from None
    videos = [Video.of(job) for job in page.jobs]
    ends = (videos[0].id, videos[-1].id) if videos else (None, None)
    return VideoList(data=videos, first_id=ends[0], last_id=ends[1], has_more=page.has_more)


@router.get("/{video_id}", response_model=Video, responses=answers(401, 403, 404))
def get_video(video_id: str, service: Services, caller: Callers) -> Response:
    """Get a video. Until it is finished, the header openai-poll-after-ms suggests when to poll again."""
    return present(service, job_of(service, caller, video_id))


@router.delete("/{video_id}", response_model=VideoDeleted, responses=answers(401, 403, 404))
def delete_video(video_id: str, service: Services, caller: Callers) -> VideoDeleted:
    """Stop a video if it is running, and delete it with all its files."""
    if not _ID.fullmatch(video_id) or not service.store.delete(video_id, caller.owner):
        raise not_found(video_id)
    service.storage.remove(video_id)
    return VideoDeleted(id=video_id)


@router.post("/{video_id}/cancel", response_model=Video, responses=answers(401, 403, 404))
def cancel_video(video_id: str, service: Services, caller: Callers) -> Response:
    """Stop a video before its next denoising step; it fails with code `cancelled`. Finished videos are unchanged."""
    job_of(service, caller, video_id)
    job = service.store.cancel(video_id, caller.owner)
    if job is None:
        raise not_found(video_id)
    return present(service, job)


@router.post("/{video_id}/remix", response_model=Video, openapi_extra=body_schema(Remix),
             responses=answers(400, 401, 403, 404, 413, 429, 507))  # fmt: skip
def remix_video(video_id: str, body: RemixBody, service: Services, caller: Callers) -> Response:
    """Generate again from the same image, camera path and settings with another prompt."""
    source = job_of(service, caller, video_id)
    creation.check_admission(service, caller)
    try:
        files = {name: service.storage.input(source.id, name).read_bytes() for name in ("image.png", "camera.json")}
    except (StorageError, FileNotFoundError):
        raise not_found(video_id) from None
    kept = tuple(note for note in source.request.notes if note.startswith(creation.INPUT_NOTES))
    request = source.request.model_copy(update={"prompt": body.prompt, "notes": kept})
    new = NewJob(
        id=creation.new_id(), owner=caller.owner, request=request, remixed_from=source.id,
        bytes=sum(map(len, files.values())),
    )  # fmt: skip
    job, _ = creation.enqueue(service, caller, new, files)
    return present(service, job)


@router.post("/{video_id}/extend", response_model=Video, openapi_extra=body_schema(Extend),
             responses=answers(400, 401, 403, 404, 409, 413, 429, 507))  # fmt: skip
def extend_video(video_id: str, body: ExtendBody, service: Services, caller: Callers) -> Response:
    """Continue a completed world: its last frame is the first frame of a new world, whose camera starts where the
    path ended, with the same field of view. Without `camera_trajectory`, the motion repeats."""
    source = job_of(service, caller, video_id)
    creation.check_admission(service, caller)
    image = last_frame(service, source)
    request = source.request
    settings = request.settings if body.seed is None else request.settings.updated(seed=body.seed)
    camera, kind = _continued(service, source, body)
    request = request.model_copy(
        update={"prompt": body.prompt or request.prompt, "settings": settings, "camera": kind, "notes": ()}
    )
    files = {"image.png": image, "camera.json": camera}
    new = NewJob(
        id=creation.new_id(), owner=caller.owner, request=request, extended_from=source.id,
        bytes=sum(map(len, files.values())),
    )  # fmt: skip
    job, _ = creation.enqueue(service, caller, new, files)
    return present(service, job)


@router.post("/{video_id}/share", response_model=ShareLink, responses=answers(401, 403, 404))
def share_video(video_id: str, service: Services, caller: Callers) -> ShareLink:
    """Create a read-only link, which needs no API key. It replaces an earlier link of the video."""
    job_of(service, caller, video_id)
    token = secrets.token_urlsafe(24)
    if not service.store.share(video_id, caller.owner, share_digest(token)):
        raise not_found(video_id)
    return ShareLink(id=video_id, token=token, path=f"/v1/shared/{token}")


@router.delete("/{video_id}/share", response_model=Video, responses=answers(401, 403, 404))
def unshare_video(video_id: str, service: Services, caller: Callers) -> Response:
    """Revoke the read-only link of a video."""
    if not _ID.fullmatch(video_id) or not service.store.share(video_id, caller.owner, None):
        raise not_found(video_id)
    return present(service, job_of(service, caller, video_id))


def job_of(service: Service, caller: Caller, video_id: str) -> Job:
    """The caller's job of this id. Raises ApiError 404."""
    job = service.store.get(video_id, caller.owner) if _ID.fullmatch(video_id) else None
    if job is None:
        raise not_found(video_id)
    return job


def present(service: Service, job: Job) -> Response:
    """A job as a response, with a suggested polling interval.

    Serialized here, because FastAPI would validate and serialize the same model again, in another thread.
    """
    pause = service.poll_after_ms(job)
    headers = {} if pause is None else {"openai-poll-after-ms": str(pause)}
    return Response(Video.of(job).model_dump_json(), media_type="application/json", headers=headers)


def last_frame(service: Service, job: Job) -> bytes:
    """The last frame of a completed job as PNG. Raises ApiError if it has none."""
    if job.status in ("queued", "in_progress"):
        raise ApiError(409, f"The video is {job.status}; extend it when it is completed.", code="video_not_completed")
    try:
        if job.result is None:
            raise FileNotFoundError
        if service.storage.artifacts is not None:
            content = b"".join(service.storage.artifacts.read(job.id, job.result, "colmap.zip"))
        else:
            content = service.storage.result(job.id, job.result, "colmap.zip").read_bytes()
        with ZipFile(BytesIO(content)) as archive:
            frames = sorted(name for name in archive.namelist() if name.startswith("images/"))
            return archive.read(frames[-1])
    except (StorageError, FileNotFoundError, BadZipFile, IndexError):
        raise ApiError(404, "This video has no frames to continue from.", code="content_not_found") from None


def _continued(service: Service, source: Job, body: Extend) -> tuple[bytes, str]:
    """Camera path of an extension as stored JSON, and its kind."""
    try:
        content = service.storage.input(source.id, "camera.json").read_bytes()
    except (StorageError, FileNotFoundError):
        raise not_found(source.id) from None
    num_frames, height, width = source.request.shape
    stored = StoredPath.model_validate_json(content)
    before = stored.trajectory().slice(0, num_frames)
    kind, motion = stored.kind, None
    if body.camera_trajectory is not None:
        fov_rad = float(before.fov_rad[-1, 0])
        try:
            given = read_camera(
                body.camera_trajectory,
                num_frames=num_frames, default_num_frames=num_frames, width=width, height=height, fov_rad=fov_rad,
            )  # fmt: skip
        except BadCameraError as error:
            raise ApiError(
                400, f"camera_trajectory: {error}", code="invalid_value", param="camera_trajectory"
            ) from None
        kind, motion = given.kind, given.trajectory()
    return StoredPath.of(kind, continued(before, motion)).model_dump_json().encode(), kind


def _estimate(service: Service, card: ModelCard, request: WorldRequest) -> Estimate:
    num_frames, height, width = request.shape
    queued = service.store.counts()["queued"]
    workers = max(1, len(service.fleet.alive()))
    seconds, mean = service.seconds_of(request, card), service.mean_seconds()
    return Estimate(
        model=card.name,
        num_frames=num_frames,
        size=f"{width}x{height}",
        num_inference_steps=request.settings.steps(card.settings.num_inference_steps),
        seconds=None if seconds is None else round(seconds, 1),
        queue_position=queued + 1,
        queue_seconds=None if mean is None else round(mean * queued / workers, 1),
        memory_bytes=card.peak_bytes(num_frames, height, width),
        memory_available_bytes=card.memory_bytes,
    )
