"""Turns the body of a creation request into a queued job, after checking the image, camera path and sizes."""

import base64
import binascii
import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from fw_geometry.clip_shape import FRAME_STEP, check_num_frames, longest_num_frames, parse_size
from fw_serve.api.errors import ApiError, invalid
from fw_serve.api.schemas import CreateVideo
from fw_serve.api.service import Caller, Service
from fw_serve.intake.camera import MAX_BYTES, BadCameraError, StoredPath, read_camera
from fw_serve.intake.fetch import FetchError
from fw_serve.intake.images import BadImageError
from fw_serve.jobs.errors import IdempotencyMismatchError, QueueFullError, RateLimitedError
from fw_serve.jobs.model import Job, ModelCard, NewJob, WorldRequest
from fw_serve.settings import Limits

DEFAULT_CAMERA = {"preset": "orbit"}
FILE_PARTS = ("input_reference", "camera_file")
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, kw_only=True)
class Body:
    """Body of a creation request: validated fields, unchecked files."""

    fields: CreateVideo
    """Validated fields."""
    image: bytes | None
    """Image file of a form."""
    camera_file: bytes | None
    """Camera file of a form."""

    def fingerprint(self) -> str:
        """Digest of the fields and files."""
        digest = hashlib.sha256(self.fields.model_dump_json().encode())
        for part in (self.image, self.camera_file):
            digest.update(b"-" if part is None else hashlib.sha256(part).digest())
        return digest.hexdigest()


async def read_body(request: Request) -> Body:
    """Read a form or a JSON body.

    Raises:
        ApiError: 400 for another content type or an invalid field.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return Body(fields=_json_fields(await request.body()), image=None, camera_file=None)
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise ApiError(
            400, "Send multipart/form-data with an image, or application/json.", code="unsupported_media_type"
        )  # fmt: skip
    async with request.form(max_files=len(FILE_PARTS), max_fields=40, max_part_size=MAX_BYTES) as form:
        return await _form_body(form)


def create(service: Service, caller: Caller, body: Body, idempotency_key: str | None) -> tuple[Job, bool]:
    """Validate a request and queue its job. Returns the job and whether it is new. Raises ApiError."""
    if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise ApiError(
            400, "Idempotency-Key must have 1-255 ASCII characters.", code="invalid_value", param="Idempotency-Key"
        )  # fmt: skip
    fields = body.fields
    card = service.model(fields.model)
    request, camera = resolve(body, card, service.settings.limits)
    image = _image(service, body)
    new = NewJob(
        id=new_id(),
        owner=caller.owner,
        request=request,
        idempotency_key=idempotency_key,
        fingerprint=body.fingerprint() if idempotency_key else "",
    )
    return enqueue(service, caller, new, {"image.png": image, "camera.json": camera.model_dump_json().encode()})


def enqueue(service: Service, caller: Caller, new: NewJob, files: dict[str, bytes]) -> tuple[Job, bool]:
    """Write the inputs, then the job; remove the inputs if the job is refused. Raises ApiError."""
    service.storage.put_inputs(new.id, files)
    taken: Job | None = None
    try:
        taken, fresh = service.store.create(new, caller.admission(service.settings.limits.queue))
        return taken, fresh
    except IdempotencyMismatchError as error:
        raise ApiError(422, f"{error}.", code="idempotency_mismatch", param="Idempotency-Key") from None
    except RateLimitedError as error:
        wait = max(1, round(error.retry_after_s + 0.5))
        raise ApiError(429, f"{error}.", code="rate_limit_exceeded", headers={"Retry-After": str(wait)}) from None
    except QueueFullError as error:
        raise queue_full(service, error) from None
    finally:
        if taken is None or taken.id != new.id:
            service.storage.remove(new.id)


def queue_full(service: Service, error: QueueFullError) -> ApiError:
    """429 with the queue position that the job would have had."""
    headers = {"Retry-After": str(service.retry_after_s()), "X-Queue-Position": str(error.waiting + 1)}
    whose = "Your share of the queue" if error.own else "The queue"
    message = f"{whose} is full: {error.waiting} of {error.limit} jobs are queued. Try again later."
    return ApiError(429, message, code="queue_full", headers=headers)


def new_id() -> str:
    """A random, unguessable id."""
    return f"video_{secrets.token_hex(12)}"


def resolve(body: Body, card: ModelCard, limits: Limits) -> tuple[WorldRequest, StoredPath]:
    """The complete request and its camera path. Raises ApiError 400 if a value is invalid or above a limit."""
    fields, defaults = body.fields, card.settings
    settings = fields.settings()
    try:
        width, height = (defaults.width, defaults.height) if fields.size is None else parse_size(fields.size)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value", param="size") from None
    if width * height > limits.pixels:
        raise _wrong("size", f"{width * height} pixels per frame; this server allows {limits.pixels}")
    if settings.num_inference_steps is not None and settings.num_inference_steps > limits.steps:
        raise _wrong("num_inference_steps", f"this server allows {limits.steps}")
    num_frames = _num_frames(fields, defaults.fps)
    if body.camera_file is not None and fields.camera_trajectory is not None:
        raise _wrong("camera_trajectory", "give camera_trajectory or camera_file, not both")
    source = body.camera_file if body.camera_file is not None else fields.camera_trajectory
    try:
        camera = read_camera(
            DEFAULT_CAMERA if source is None else source,
            num_frames=num_frames, default_num_frames=defaults.num_frames, width=width, height=height,
        )  # fmt: skip
    except BadCameraError as error:
        raise _wrong("camera_trajectory" if body.camera_file is None else "camera_file", str(error)) from None
    if num_frames is None:
        num_frames = longest_num_frames(min(defaults.num_frames, len(camera.K)))
    if num_frames > limits.frames:
        raise _wrong("num_frames", f"{num_frames} frames; this server allows {limits.frames}")
    request = WorldRequest(
        prompt=fields.prompt,
        model=card.name,
        seconds=fields.seconds or f"{num_frames / defaults.fps:.4g}",
        camera=camera.kind,
        settings=settings.updated(num_frames=num_frames, width=width, height=height),
    )
    return request, camera


def _num_frames(fields: CreateVideo, fps: float) -> int | None:
    num_frames = fields.settings().num_frames
    if fields.seconds is not None:
        if num_frames is not None:
            raise _wrong("num_frames", "give num_frames or seconds, not both")
        return FRAME_STEP * round(float(fields.seconds) * fps / FRAME_STEP) + 1
    if num_frames is not None:
        try:
            check_num_frames(num_frames)
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value", param="num_frames") from None
    return num_frames


def _image(service: Service, body: Body) -> bytes:
    reference = body.fields.input_reference
    if body.image is None and reference is None:
        raise ApiError(
            400,
            "input_reference is missing; send the image for the first frame.",
            code="missing_required_parameter",
            param="input_reference",
        )
    try:
        content = body.image
        if content is None:
            assert reference is not None
            content = _referenced(service, reference.image_url)
        return service.decoder.decode(content)
    except (BadImageError, FetchError) as error:
        raise _wrong("input_reference", str(error), code="invalid_image") from None


def _referenced(service: Service, url: str) -> bytes:
    if not url.startswith("data:"):
        return service.fetcher.fetch(url)
    head = _DATA_URL.match(url)
    try:
        return base64.b64decode(url[head.end() :] if head else "!", validate=True)
    except (binascii.Error, ValueError):
        raise BadImageError("the data: URL of an image must be data:image/png;base64,...") from None


def _json_fields(content: bytes) -> CreateVideo:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON.", code="invalid_json") from None
    reference = data.get("input_reference") if isinstance(data, dict) else None
    if isinstance(reference, dict) and "file_id" in reference:
        raise _wrong("input_reference", "file_id is not supported; send image_url, or a form with the image")
    try:
        return CreateVideo.model_validate(data, strict=True)
    except ValidationError as error:
        raise invalid(error) from None


async def _form_body(form: FormData) -> Body:
    files: dict[str, bytes] = {}
    texts: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in files or name in texts:
            raise _wrong(name[:60], "this field occurs more than once")
        if isinstance(value, UploadFile):
            if name not in FILE_PARTS:
                raise _wrong(name[:60], f"files are {' and '.join(FILE_PARTS)}")
            files[name] = await value.read()
        elif name in FILE_PARTS:
            raise _wrong(name, "send it as a file part; a JSON body takes {'image_url': ...}")
        else:
            texts[name] = value
    try:
        fields = CreateVideo.model_validate(texts)
    except ValidationError as error:
        raise invalid(error) from None
    return Body(fields=fields, image=files.get("input_reference"), camera_file=files.get("camera_file"))


def _wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{param}: {message}", code=code, param=param)
