"""Errors in the shape of OpenAI's, whatever raised them."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from fw_serve.api.schemas import ErrorResponse

log = logging.getLogger("fw_serve.api")

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error."""

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
    """No such video, or it is another key's: both look the same."""
    return ApiError(404, f"There is no video {video_id[:60]!r}.", code="video_not_found", param="video_id")


def invalid(error: ValidationError) -> ApiError:
    """The first thing that pydantic found wrong."""
    return _of_details(error.errors(include_url=False, include_input=False))


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as an answer."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, headers=dict(headers or {}))


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these answers are errors in our shape."""
    return {status: {"model": ErrorResponse, "description": _DESCRIPTIONS[status]} for status in statuses}


def install(app: FastAPI) -> None:
    """Let every error of an application leave in this shape."""

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
        message = {404: f"There is nothing at {request.url.path[:100]}.", 405: "This method is not known here."}
        return error_response(error.status_code, message.get(error.status_code, str(error.detail)), headers=headers)

    @app.exception_handler(OperationalError)
    async def _database(_request: Request, error: OperationalError) -> JSONResponse:
        log.error("the database does not answer: %s", error.orig)
        return error_response(
            503, "The job store does not answer; try again.", code="store_unavailable", headers={"Retry-After": "2"}
        )

    @app.exception_handler(Exception)
    async def _other(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "Something went wrong in the server; its log says what.", code="internal_error")


_DESCRIPTIONS = {
    400: "The request cannot be done as it is; `param` says which part of it.",
    401: "No API key, or one that is not valid.",
    403: "Not from here.",
    404: "There is no such thing.",
    405: "This method is not known here.",
    409: "Not in this state.",
    413: "The request is too large.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many; Retry-After says when to try again.",
    503: "Not yet; Retry-After says when to try again.",
}


def _of_details(details: Any) -> ApiError:
    first = details[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(place) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, code="invalid_value", param=param)


def _methods(request: Request) -> set[str]:
    """All methods of a path; FastAPI itself names those of its first route only."""
    methods: set[str] = set()
    for route in request.app.state.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return methods
