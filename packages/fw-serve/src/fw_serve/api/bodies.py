"""Reading of request bodies: forms and JSON within limits, parsed off the event loop, first error only."""

import dataclasses
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from fw_model.pipeline.settings import current_names
from fw_serve.api.errors import ApiError, invalid
from fw_serve.api.schemas import CreateVideo
from fw_serve.api.service import Caller, Callers, Service

FILE_PARTS = ("input_reference", "camera_file")
_DATA_URL = re.compile(rb'"(data:image/[a-z0-9.+-]{1,40};base64,[A-Za-z0-9+/=\\]*)"')
_ELSEWHERE = {
    "n": "not supported; send one request per world",
    "user": "not supported; the API key identifies the user",
    "quality": "not supported; set num_inference_steps",
    "fps": "not supported; the model sets the frame rate",
}
"""Fields of other APIs, and what to do instead."""
_PLACEHOLDER = "data:image/cut;base64,"

Model = TypeVar("Model", bound=BaseModel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreateBody:
    """Body of a creation request: validated fields, unchecked files."""

    fields: CreateVideo
    """Validated fields."""
    image: bytes | None = None
    """Image file of a form."""
    image_url: str | None = None
    """URL of the image, of a JSON body."""
    camera_file: bytes | None = None
    """Camera file of a form."""

    def fingerprint(self) -> str:
        """Digest of the fields and files."""
        digest = hashlib.sha256(self.fields.model_dump_json(exclude={"input_reference"}).encode())
        url = None if self.image_url is None else self.image_url.encode()
        for part in (self.image, self.camera_file, url):
            digest.update(b"-" if part is None else hashlib.sha256(part).digest())
        return digest.hexdigest()


async def read_create_body(request: Request, service: Service, *, image: bool = True) -> CreateBody:
    """Read a form or a JSON body.

    Args:
        request: the request.
        service: the service.
        image: whether a JSON body may hold the data: URL of an image; without, only the small limit applies.

    Raises:
        ApiError: 400 for another content type or an invalid field, 413 if the JSON is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        content = await _json_bytes(request, service.settings.limits.json_bytes, image=image)
        return await run_in_threadpool(_json_body, content, service.settings.limits.json_bytes)
    if kind != "multipart/form-data":
        raise ApiError(
            400, "Send multipart/form-data with an image, or application/json.", code="unsupported_media_type"
        )  # fmt: skip
    text_bytes = service.settings.limits.json_bytes
    async with request.form(max_files=len(FILE_PARTS), max_fields=40, max_part_size=text_bytes) as form:
        return await run_in_threadpool(_form_body, form)


def json_body(model: type[Model]) -> Callable[[Request, Caller], Awaitable[Model]]:
    """A dependency that reads a small JSON body as `model`."""

    async def read(request: Request, _caller: Callers) -> Model:  # who has no key sends no body
        service: Service = request.app.state.service
        content = await _json_bytes(request, service.settings.limits.json_bytes, image=False)
        return await run_in_threadpool(_validated, model, content)

    return read


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI entry of a body that `json_body` reads."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@asynccontextmanager
async def body_share(request: Request, service: Service, caller: Caller) -> AsyncIterator[None]:
    """Count a creation and the bytes of its body to the caller's share while it is processed.

    Raises:
        ApiError: 429 if the share is used up.
    """
    limits = service.settings.limits
    size = int(request.headers.get("content-length") or limits.upload_bytes)
    if service.creating[caller.owner] >= limits.creating:
        raise ApiError(
            429, f"{limits.creating} of your requests are being processed; wait for their responses.",
            code="too_many_requests", headers={"Retry-After": "2"},
        )  # fmt: skip
    if service.buffered[caller.owner] and service.buffered[caller.owner] + size > limits.buffered_bytes:
        raise ApiError(
            429, f"Your requests in transit exceed {limits.buffered_bytes} bytes; wait for their responses.",
            code="too_many_bytes", headers={"Retry-After": "2"},
        )  # fmt: skip
    service.creating[caller.owner] += 1
    service.buffered[caller.owner] += size
    try:
        yield
    finally:
        service.creating[caller.owner] -= 1
        service.buffered[caller.owner] -= size
        if not service.creating[caller.owner]:
            del service.creating[caller.owner], service.buffered[caller.owner]


async def _json_bytes(request: Request, limit: int, *, image: bool) -> bytes:
    """The body, at most `limit` bytes, or as large as an upload if it begins with an image."""
    parts: list[bytes] = []
    size, has_image = 0, False
    async for part in request.stream():
        size += len(part)
        parts.append(part)
        if size > limit and not has_image:
            has_image = image and b'"data:image/' in b"".join(parts)
            if not has_image:
                parts.clear()
                raise ApiError(413, f"The JSON body is larger than {limit} bytes.", code="request_too_large")
    return b"".join(parts)


def _json_body(content: bytes, limit: int) -> CreateBody:
    """Validate a JSON body. The data: URL of its image is cut out first, so that no parser sees it."""
    found = _DATA_URL.search(content)
    url = None
    if found is not None:
        url = found[1].decode("ascii").replace("\\/", "/")
        content = content[: found.start(1)] + _PLACEHOLDER.encode() + content[found.end(1) :]
    if len(content) > limit:
        raise ApiError(413, f"The JSON body is larger than {limit} bytes.", code="request_too_large")
    data = _parsed(content)
    reference = data.get("input_reference")
    if isinstance(reference, str):  # the URL itself, as some clients send it
        data["input_reference"] = reference = {"image_url": reference}
    if isinstance(reference, dict) and "file_id" in reference:
        raise wrong("input_reference", "file_id is not supported; send image_url, or a form with the image")
    if isinstance(data.get("seconds"), (int, float)) and not isinstance(data["seconds"], bool):
        data["seconds"] = f"{data['seconds']:g}"
    _check_names(CreateVideo, data)
    try:
        fields = CreateVideo.model_validate(data, strict=True)
    except ValidationError as error:
        raise invalid(error) from None
    if fields.input_reference is None:
        return CreateBody(fields=fields)
    given = fields.input_reference.image_url
    return CreateBody(fields=fields, image_url=url if given == _PLACEHOLDER and url is not None else given)


def _validated(model: type[Model], content: bytes) -> Model:
    data = _parsed(content)
    _check_names(model, data)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error) from None


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return data


def _check_names(model: type[BaseModel], data: dict[str, Any]) -> None:
    """Refuse the first unknown field; pydantic would report all of them."""
    for name in data:
        if name not in model.model_fields:
            raise _unknown(model, name)


def _unknown(model: type[BaseModel], name: str) -> ApiError:
    if name in _ELSEWHERE and model is CreateVideo:
        return wrong(name, _ELSEWHERE[name])
    (today,) = current_names({name: None})
    close = [today] if today != name else get_close_matches(name[:60], model.model_fields, n=1, cutoff=0.7)
    meant = f"did you mean {close[0]}? " if close and close[0] in model.model_fields else ""
    return wrong(name[:60], f"unknown field; {meant}accepted: {', '.join(model.model_fields)}")


def _form_body(form: FormData) -> CreateBody:
    files: dict[str, bytes] = {}
    texts: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in files or name in texts:
            raise wrong(name[:60], "this field occurs more than once")
        if isinstance(value, UploadFile):
            if name not in FILE_PARTS:
                raise wrong(name[:60], f"unknown file; accepted: {', '.join(FILE_PARTS)}")
            files[name] = value.file.read()
        elif name in FILE_PARTS:
            raise wrong(name, 'send it as a file part; a JSON body takes {"image_url": ...}')
        elif name not in CreateVideo.model_fields:
            raise _unknown(CreateVideo, name)
        else:
            texts[name] = value
    try:
        fields = CreateVideo.model_validate(texts)
    except ValidationError as error:
        raise invalid(error) from None
    return CreateBody(fields=fields, image=files.get("input_reference"), camera_file=files.get("camera_file"))


def wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """400 that names a field."""
    return ApiError(400, f"{param}: {message}", code=code, param=param)
