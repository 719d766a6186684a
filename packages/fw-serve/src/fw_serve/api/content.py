"""/v1/videos/{id}/content: the files of a world. File names come from a table, never from the request."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse

from fw_serve.api.errors import ApiError, answers
from fw_serve.api.files import OpenedFile, WorldArchive
from fw_serve.api.service import Callers, Service, Services
from fw_serve.api.videos import job_of
from fw_serve.jobs.model import Job
from fw_serve.storage import StorageError

router = APIRouter(prefix="/v1/videos", tags=["videos"])

Variant = Literal[
    "video", "thumbnail", "spritesheet", "depth", "confidence", "geometry", "pointcloud", "cameras", "colmap", "world",
    "all",
]  # fmt: skip
Format = Literal["mp4", "webp", "jpg", "zip", "npz", "glb", "ply", "bin", "json", "transforms", "requested"]

FILES: dict[Variant, dict[Format, tuple[str, str]]] = {
    "video": {"mp4": ("video.mp4", "video/mp4")},
    "thumbnail": {"webp": ("thumbnail.webp", "image/webp")},
    "spritesheet": {"jpg": ("spritesheet.jpg", "image/jpeg")},
    "depth": {"mp4": ("depth.mp4", "video/mp4"), "zip": ("depth.zip", "application/zip")},
    "confidence": {"mp4": ("confidence.mp4", "video/mp4")},
    "geometry": {"npz": ("geometry.npz", "application/octet-stream")},
    "pointcloud": {
        "glb": ("points.glb", "model/gltf-binary"),
        "ply": ("points.ply", "application/octet-stream"),
        "bin": ("points.bin", "application/octet-stream"),
    },
    "cameras": {
        "json": ("cameras.json", "application/json"),
        "transforms": ("transforms.json", "application/json"),
        "requested": ("requested_cameras.json", "application/json"),
    },
    "colmap": {"zip": ("colmap.zip", "application/zip")},
    "world": {"json": ("world.json", "application/json")},
    "all": {"zip": ("all.zip", "application/zip")},
}
"""File and media type by variant and format; the first format is the default."""

assert set(FILES) == set(get_args(Variant))

_TYPES = sorted({kind for formats in FILES.values() for _, kind in formats.values()})
_BYTES = {"schema": {"type": "string", "format": "binary"}}
WHOLE = {kind: {"schema": {"type": "object"}} if kind == "application/json" else _BYTES for kind in _TYPES}


CONTENT_RESPONSES = {
    200: {"description": "The file.", "content": WHOLE},
    206: {"description": "The requested range.", "content": dict.fromkeys(_TYPES, _BYTES)},
    304: {"description": "The file is unchanged (If-None-Match)."},
    307: {"description": "A presigned URL of the file in object storage."},
    416: {"description": "The requested range is outside the file."},
}
"""OpenAPI entries of the responses with a file."""

VariantQuery = Annotated[Variant, Query(description="Kind of file. `all` is one zip with the folder of `fw generate`.")]
FormatQuery = Annotated[Format | None, Query(description="File format, for variants that have several.")]


@router.get(
    "/{video_id}/content",
    response_class=FileResponse,
    responses={**CONTENT_RESPONSES, **answers(400, 401, 403, 404, 409)},
)
def get_content(
    video_id: str,
    service: Services,
    caller: Callers,
    variant: VariantQuery = "video",
    format: FormatQuery = None,  # noqa: A002
) -> Response:
    """Download one file of a completed world; Range and If-None-Match are supported."""
    return content_of(service, job_of(service, caller, video_id), variant, format)


@router.get(
    "/{video_id}/preview",
    response_class=Response,
    responses={
        200: {"description": "The frames as denoised so far.", "content": {"image/jpeg": _BYTES}},
        **answers(401, 403, 404),
    },
)
def get_preview(video_id: str, service: Services, caller: Callers) -> Response:
    """Get the latest preview of a running video: its frames side by side."""
    job = job_of(service, caller, video_id)
    content = service.storage.preview(job.lease) if job.status == "in_progress" and job.lease else None
    if content is None:
        raise ApiError(404, "This video has no preview yet.", code="content_not_found")
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


def content_of(service: Service, job: Job, variant: Variant, format: Format | None) -> Response:  # noqa: A002
    """A file of a job. Raises ApiError if it does not exist, or not yet."""
    formats = FILES[variant]
    if format is not None and format not in formats:
        known = ", ".join(formats)
        raise ApiError(400, f"format: {variant} is available as {known}", code="invalid_value", param="format")
    name, kind = formats[format] if format is not None else next(iter(formats.values()))
    if job.status in ("queued", "in_progress"):
        raise ApiError(
            409, f"The video is {job.status} and has no files yet.", code="video_not_completed",
            headers={"Retry-After": "1"},
        )  # fmt: skip
    if job.result is None:
        raise ApiError(404, "The video failed, so it has no files.", code="content_not_found", param="variant")
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    try:
        if variant == "all":
            opened = service.storage.open_results(job.id, job.result)
            return WorldArchive(opened, filename=f"{job.id}.zip", headers=headers)
        if service.storage.artifacts is not None:
            return _stored_remotely(service, job, name, kind, headers)
        path = service.storage.result(job.id, job.result, name)
        return OpenedFile(path, media_type=kind, filename=f"{job.id}-{name}", headers=headers)
    except (StorageError, FileNotFoundError):
        message = f"This video has no {variant}."
        raise ApiError(404, message, code="content_not_found", param="variant") from None


def _stored_remotely(service: Service, job: Job, name: str, kind: str, headers: dict[str, str]) -> Response:
    """A presigned URL of a file in object storage, or its content if there is none."""
    store, attempt = service.storage.artifacts, job.result
    assert store is not None
    assert attempt is not None
    if store.info(job.id, attempt, name) is None:
        raise FileNotFoundError(name)
    link = store.link(job.id, attempt, name)
    if link is not None:
        return RedirectResponse(link, headers={"Cache-Control": "no-store"})
    disposition = {"Content-Disposition": f'inline; filename="{job.id}-{Path(name).name}"'}
    return StreamingResponse(store.read(job.id, attempt, name), media_type=kind, headers={**headers, **disposition})
