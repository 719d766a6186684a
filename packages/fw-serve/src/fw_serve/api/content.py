"""/v1/videos/{id}/content: the files of a world. File names come from a table, never from the request."""

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query
from starlette.responses import FileResponse

from fw_serve.api.errors import ApiError, answers
from fw_serve.api.service import Callers, Services
from fw_serve.api.videos import job_of
from fw_serve.storage import StorageError

router = APIRouter(prefix="/v1/videos", tags=["videos"])

Variant = Literal[
    "video", "thumbnail", "spritesheet", "depth", "confidence", "geometry", "pointcloud", "cameras", "colmap", "world"
]
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
}
"""File and media type by variant and format; the first format is the default."""

assert set(FILES) == set(get_args(Variant))

_TYPES = sorted({kind for formats in FILES.values() for _, kind in formats.values()})
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_WHOLE = {kind: {"schema": {"type": "object"}} if kind == "application/json" else _BYTES for kind in _TYPES}


@router.get(
    "/{video_id}/content",
    response_class=FileResponse,
    responses={
        200: {"description": "The file.", "content": _WHOLE},
        206: {"description": "The requested range.", "content": dict.fromkeys(_TYPES, _BYTES)},
        416: {"description": "The requested range is outside the file."},
        **answers(400, 401, 403, 404, 409),
    },
)
def get_content(
    video_id: str,
    service: Services,
    caller: Callers,
    variant: Annotated[Variant, Query(description="Kind of file.")] = "video",
    format: Annotated[Format | None, Query(description="File format, for variants that have several.")] = None,  # noqa: A002
) -> FileResponse:
    """Download one file of a completed world; Range requests are supported."""
    job = job_of(service, caller, video_id)
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
    try:
        if job.result is None:
            raise StorageError
        path = service.storage.result(job.id, job.result, name)
    except StorageError:
        message = "The video failed, so it has no files." if job.result is None else f"This video has no {variant}."
        raise ApiError(404, message, code="content_not_found", param="variant") from None
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return FileResponse(
        path, media_type=kind, filename=f"{job.id}-{name}", headers=headers, content_disposition_type="inline"
    )
