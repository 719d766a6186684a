"""/v1/videos: create, get, list, delete, cancel and remix, compatible with the OpenAI client."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from fw_serve.api import create as creation
from fw_serve.api.errors import ApiError, answers, not_found
from fw_serve.api.schemas import CreateVideo, Remix, Video, VideoDeleted, VideoList
from fw_serve.api.service import Caller, Callers, Service, Services
from fw_serve.jobs.errors import UnknownCursorError
from fw_serve.jobs.model import Job, NewJob
from fw_serve.storage import StorageError

router = APIRouter(prefix="/v1/videos", tags=["videos"])

_ID = re.compile(r"video_[0-9a-f]{24}")
_SCHEMAS = "#/components/schemas/"


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
        "description": "The camera path as a file: our JSON, the released JSON, transforms.json or RealEstate10K text.",
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


@router.post("", response_model=Video, openapi_extra=_CREATE_BODY, responses=answers(400, 401, 403, 413, 422, 429, 503))
async def create_video(
    request: Request,
    service: Services,
    caller: Callers,
    idempotency_key: Annotated[
        str | None, Header(description="A repeated request with the same key returns the same job.")
    ] = None,
) -> Response:
    """Queue a world from an image, a prompt and a camera path."""
    body = await creation.read_body(request)

    def work() -> Response:
        job, fresh = creation.create(service, caller, body, idempotency_key)
        answer = present(service, job)
        if not fresh:
            answer.headers["Idempotent-Replayed"] = "true"
        return answer

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


@router.post("/{video_id}/remix", response_model=Video, responses=answers(400, 401, 403, 404, 413, 429))
def remix_video(video_id: str, body: Remix, service: Services, caller: Callers) -> Response:
    """Generate again from the same image, camera path and settings with another prompt."""
    source = job_of(service, caller, video_id)
    try:
        files = {name: service.storage.input(source.id, name).read_bytes() for name in ("image.png", "camera.json")}
    except (StorageError, FileNotFoundError):
        raise not_found(video_id) from None
    request = source.request.model_copy(update={"prompt": body.prompt})
    new = NewJob(id=creation.new_id(), owner=caller.owner, request=request, remixed_from=source.id)
    job, _ = creation.enqueue(service, caller, new, files)
    return present(service, job)


def job_of(service: Service, caller: Caller, video_id: str) -> Job:
    """The caller's job of this id. Raises ApiError 404."""
    job = service.store.get(video_id, caller.owner) if _ID.fullmatch(video_id) else None
    if job is None:
        raise not_found(video_id)
    return job


def present(service: Service, job: Job) -> Response:
    """A job as an answer, with the header that paces the client.

    Serialized here, because FastAPI would validate and serialize the same model again, in another thread.
    """
    pause = service.poll_after_ms(job)
    headers = {} if pause is None else {"openai-poll-after-ms": str(pause)}
    return Response(Video.of(job).model_dump_json(), media_type="application/json", headers=headers)
