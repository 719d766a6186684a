"""All errors as responses in the format of OpenAI."""

import errno
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from fw_serve.api.schemas import ErrorResponse
from fw_serve.intake.wording import words_of

log = logging.getLogger("fw_serve.api")

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error response."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})


def not_found(video_id: str) -> ApiError:
    """404 for a video that does not exist or belongs to another key; the two look the same."""
    return ApiError(404, f"Video {video_id[:60]!r} not found.", code="video_not_found", param="video_id")


def invalid(error: ValidationError) -> ApiError:
    """400 for the first error that pydantic reports."""
    return _of_details(error.errors(include_url=False))


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as a JSON response."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, headers=dict(headers or {}))


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for error responses with these statuses."""
    return {status: {"model": ErrorResponse, "description": _DESCRIPTIONS[status]} for status in statuses}


def install(app: FastAPI) -> None:
    """Register handlers that turn every error into an error response."""

    @app.exception_handler(ApiError)
    async def _ours(_request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.message, code=error.code, param=error.param, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def _request(_request: Request, error: RequestValidationError) -> JSONResponse:
        found = _of_details(error.errors())
        return error_response(found.status, found.message, code=found.code, param=found.param)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_methods(request)))
        message = {404: f"{request.url.path[:100]} not found.", 405: "Method not allowed."}
        return error_response(error.status_code, message.get(error.status_code, str(error.detail)), headers=headers)

    @app.exception_handler(OperationalError)
    async def _database(_request: Request, error: OperationalError) -> JSONResponse:
        if _full(error):
            return error_response(507, "The disk of the server is full.", code="storage_full")
        log.error("the database is not responding: %s", error.orig)
        return error_response(
            503, "The job store is not responding; try again.", code="store_unavailable", headers={"Retry-After": "2"}
        )

    @app.exception_handler(OSError)
    async def _system(request: Request, error: OSError) -> JSONResponse:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            log.error("%s %s: the disk is full", request.method, request.url.path)
            return error_response(507, "The disk of the server is full.", code="storage_full")
        return await _other(request, error)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> JSONResponse:
        return error_response(400, "The request was not completed.")  # nobody reads it

    @app.exception_handler(Exception)
    async def _other(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "Internal error; see the log of the server.", code="internal_error")


_DESCRIPTIONS = {
    400: "The request is invalid; `param` names the field.",
    401: "The API key is missing or invalid.",
    403: "Forbidden host or origin.",
    404: "Not found.",
    405: "Method not allowed.",
    409: "Not available in this state.",
    413: "The request is too large.",
    422: "The Idempotency-Key belongs to another request.",
    429: "Too many requests or jobs; see Retry-After.",
    503: "Temporarily unavailable; see Retry-After.",
    507: "The disk of the server is full.",
}


def _full(error: OperationalError) -> bool:
    """Whether SQLite could not write because the disk is full."""
    return "disk is full" in str(error.orig)


def _of_details(details: Any) -> ApiError:
    param, problem = words_of(details[0])
    return ApiError(400, f"{param}: {problem}" if param else problem, code="invalid_value", param=param or None)


def _methods(request: Request) -> set[str]:
    """All methods of a path; FastAPI lists those of its first route only."""
    methods: set[str] = set()
    for route in request.app.state.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return methods
