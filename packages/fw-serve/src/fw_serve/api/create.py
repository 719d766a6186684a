"""Creation of jobs: cheap checks first, then the image, then the queue."""

import asyncio
import base64
import binascii
import re
import secrets

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from fw_geometry.clip_shape import FRAME_STEP, check_num_frames, longest_num_frames, parse_size
from fw_serve.api.bodies import CreateBody, body_share, read_create_body, wrong
from fw_serve.api.errors import ApiError
from fw_serve.api.schemas import CreateVideo
from fw_serve.api.service import Caller, Service
from fw_serve.intake.camera import BadCameraError, StoredPath, read_camera
from fw_serve.intake.decoder import MAX_PIXELS
from fw_serve.intake.fetch import FetchError
from fw_serve.intake.image_size import image_size
from fw_serve.intake.images import BadImageError, DecodedPng
from fw_serve.intake.turns import TurnsTakenError
from fw_serve.jobs.errors import (
    DiskShareError,
    IdempotencyMismatchError,
    QueueFullError,
    RateLimitedError,
    StoreError,
)
from fw_serve.jobs.model import Job, ModelCard, NewJob, WorldRequest
from fw_serve.settings import Limits

INPUT_NOTES = ("image: ", "trajectory: ")
"""Starts of the notes about the image and the camera file, which a remix keeps."""
DEFAULT_CAMERA = {"preset": "orbit"}
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def create(request: Request, service: Service, caller: Caller, idempotency_key: str | None) -> tuple[Job, bool]:
    """Validate a request and queue its job.

    Limits are checked before the body is read, sizes before the image is decoded.

    Returns:
        The job, and whether it is new.

    Raises:
        ApiError: the request is invalid or exceeds a limit.
    """
    if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise wrong("Idempotency-Key", "must have 1-255 ASCII characters without spaces")
    await run_in_threadpool(check_admission, service, caller, idempotency_key)
    async with body_share(request, service, caller):
        body = await read_create_body(request, service)
        card = await run_in_threadpool(service.model, body.fields.model)
        resolved, camera = await run_in_threadpool(resolve, body, card, service.settings.limits)
        check_memory(card, resolved)
        priority = check_priority(caller, body.fields.priority)
        await run_in_threadpool(service.webhooks.check, body.fields.webhook)  # it resolves the host
        image = await decoded(service, caller, await run_in_threadpool(_image, service, body))
        notes = (*(f"image: {note}" for note in image.notes), *resolved.notes)
        resolved = resolved.model_copy(update={"notes": notes})
        files = {"image.png": image.png, "camera.json": camera.model_dump_json().encode()}
        new = NewJob(
            id=new_id(),
            owner=caller.owner,
            request=resolved,
            bytes=sum(map(len, files.values())),
            priority=priority,
            webhook=body.fields.webhook,
            idempotency_key=idempotency_key,
            fingerprint=await run_in_threadpool(body.fingerprint) if idempotency_key else "",
        )
        return await run_in_threadpool(enqueue, service, caller, new, files)


def check_admission(service: Service, caller: Caller, idempotency_key: str | None = None) -> None:
    """Raise ApiError if a new job would be refused now: full disk, rate limit, full queue."""
    service.check_disk()
    if idempotency_key is not None and service.store.known_key(caller.owner, idempotency_key):
        return  # a repetition creates nothing
    try:
        service.store.check(caller.owner, caller.admission(service.settings.limits.queue))
    except StoreError as error:
        raise _refusal(service, error) from None


def check_priority(caller: Caller, priority: int) -> int:
    """The requested priority. Raises ApiError 403 if the key does not allow it."""
    if priority > caller.max_priority:
        raise ApiError(
            403, f"priority: this API key allows up to {caller.max_priority}.", code="priority_not_allowed",
            param="priority",
        )  # fmt: skip
    return priority


def check_memory(card: ModelCard, request: WorldRequest) -> None:
    """Raise ApiError 400 if a job needs more memory than the device has, as planned, or measured on earlier jobs."""
    need = card.peak_bytes(*request.shape)
    if need is not None and card.memory_bytes is not None and need > card.memory_bytes:
        num_frames, height, width = request.shape
        raise wrong(
            "size",
            f"{num_frames} frames of {width}x{height} need about {need / 1e9:.1f} GB of memory, and the device of "
            f"this server has {card.memory_bytes / 1e9:.1f} GB; request fewer frames or a smaller size",
            code="too_large_for_memory",
        )


async def decoded(service: Service, caller: Caller, content: bytes) -> DecodedPng:
    """An untrusted image as PNG. The size is checked in its header first; decoding waits for a fair turn."""
    size = image_size(content)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        message = f"the image has {size[0]}x{size[1]} pixels; the maximum is {MAX_PIXELS / 1e6:g} million"
        raise wrong("input_reference", message, code="invalid_image")
    try:
        async with service.turns.turn(caller.owner):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(service.decoding, service.decoder.decode, content)
    except TurnsTakenError:
        raise ApiError(
            429, "Too many of your images are being decoded; wait for their responses.", code="too_many_requests",
            headers={"Retry-After": "2"},
        ) from None  # fmt: skip
    except BadImageError as error:
        raise wrong("input_reference", str(error), code="invalid_image") from None


def enqueue(service: Service, caller: Caller, new: NewJob, files: dict[str, bytes]) -> tuple[Job, bool]:
    """Write the inputs, then the job; remove the inputs if the job is refused. Raises ApiError."""
    service.storage.put_inputs(new.id, files)
    taken: Job | None = None
    try:
        taken, fresh = service.store.create(new, caller.admission(service.settings.limits.queue))
        return taken, fresh
    except StoreError as error:
        raise _refusal(service, error) from None
    finally:
        if taken is None or taken.id != new.id:
            service.storage.remove(new.id)


def _refusal(service: Service, error: StoreError) -> ApiError:
    match error:
        case IdempotencyMismatchError():
            return ApiError(422, f"{error}.", code="idempotency_mismatch", param="Idempotency-Key")
        case RateLimitedError():
            wait = max(1, round(error.retry_after_s + 0.5))
            return ApiError(429, f"{error}.", code="rate_limit_exceeded", headers={"Retry-After": str(wait)})
        case DiskShareError():
            return ApiError(429, f"{error}.", code="disk_share_full", headers={"Retry-After": "60"})
        case QueueFullError():
            headers = {"Retry-After": str(service.retry_after_s()), "X-Queue-Position": str(error.waiting + 1)}
            whose = "Your share of the queue" if error.own else "The queue"
            message = f"{whose} is full: {error.waiting} of {error.limit} jobs are queued. Try again later."
            return ApiError(429, message, code="queue_full", headers=headers)
    raise error


def new_id() -> str:
    """A random, unguessable id."""
    return f"video_{secrets.token_hex(12)}"


def resolve(body: CreateBody, card: ModelCard, limits: Limits) -> tuple[WorldRequest, StoredPath]:
    """The complete request and its camera path. Raises ApiError 400 if a value is invalid or above a limit."""
    fields, defaults = body.fields, card.settings
    settings = fields.settings()
    try:
        width, height = (defaults.width, defaults.height) if fields.size is None else parse_size(fields.size)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value", param="size") from None
    trained = defaults.width * defaults.height
    pixels = trained if limits.pixels is None else limits.pixels
    if width * height > pixels:
        reason = f" (the model was trained for {defaults.width}x{defaults.height})" if limits.pixels is None else ""
        raise wrong("size", f"{width}x{height} has {width * height} pixels per frame; the maximum is {pixels}{reason}")
    steps = settings.steps(0)
    if steps > limits.steps:
        name = "num_inference_steps" if settings.timesteps is None else "timesteps"
        raise wrong(name, f"{steps} denoising steps; the maximum is {limits.steps}")
    if fields.lora is not None and fields.lora not in card.loras:
        known = f"available: {', '.join(card.loras)}" if card.loras else "this model has none"
        raise wrong("lora", f"LoRA {fields.lora[:60]!r} not found; {known}")
    num_frames = _num_frames(fields, defaults.fps)
    most = defaults.num_frames if limits.frames is None else limits.frames
    if num_frames is not None and num_frames > most:
        reason = " (the length that the model was trained for)" if limits.frames is None else ""
        raise wrong("num_frames", f"is {num_frames}; the maximum is {most}{reason}")
    if body.camera_file is not None and fields.camera_trajectory is not None:
        raise wrong("camera_trajectory", "give camera_trajectory or camera_file, not both")
    notes: list[str] = []
    source = body.camera_file if body.camera_file is not None else fields.camera_trajectory
    try:
        camera = read_camera(
            DEFAULT_CAMERA if source is None else source,
            num_frames=num_frames, default_num_frames=defaults.num_frames, width=width, height=height, notes=notes,
        )  # fmt: skip
    except BadCameraError as error:
        raise wrong("camera_trajectory" if body.camera_file is None else "camera_file", str(error)) from None
    if num_frames is None:
        num_frames = longest_num_frames(min(defaults.num_frames, len(camera.K)))
    request = WorldRequest(
        prompt=fields.prompt,
        model=card.name,
        seconds=fields.seconds or f"{num_frames / defaults.fps:.4g}",
        camera=camera.kind,
        lora=fields.lora,
        settings=settings.updated(num_frames=num_frames, width=width, height=height),
        notes=tuple(f"trajectory: {note}" for note in notes),
    )
    return request, camera


def _num_frames(fields: CreateVideo, fps: float) -> int | None:
    num_frames = fields.settings().num_frames
    if fields.seconds is not None:
        if num_frames is not None:
            raise wrong("num_frames", "give num_frames or seconds, not both")
        return FRAME_STEP * round(float(fields.seconds) * fps / FRAME_STEP) + 1
    if num_frames is not None:
        try:
            check_num_frames(num_frames)
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value", param="num_frames") from None
    return num_frames


def _image(service: Service, body: CreateBody) -> bytes:
    """Content of the image of a request, not decoded."""
    if body.image is not None:
        return body.image
    if body.image_url is None:
        raise ApiError(
            400,
            "input_reference is missing; send the image for the first frame.",
            code="missing_required_parameter",
            param="input_reference",
        )
    try:
        if not body.image_url.startswith("data:"):
            return service.fetcher.fetch(body.image_url)
        head = _DATA_URL.match(body.image_url)
        return base64.b64decode(body.image_url[head.end() :] if head else "!", validate=True)
    except FetchError as error:
        raise wrong("input_reference", str(error), code="invalid_image") from None
    except (binascii.Error, ValueError):
        raise wrong(
            "input_reference", "a data: URL must have the form data:image/png;base64,...", code="invalid_image"
        ) from None  # fmt: skip
