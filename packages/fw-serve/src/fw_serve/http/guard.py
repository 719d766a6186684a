"""ASGI middleware for every request: host and origin checks, body size, security headers, request ids, metrics, log."""

import json
import logging
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fw_serve.api.errors import ApiError, error_response
from fw_serve.http.metrics import Metrics
from fw_serve.http.tracing import request_span
from fw_serve.settings import Settings

access = logging.getLogger("fw_serve.access")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Default headers of every response."""

HEAD_ONLY = "fw_head"
"""Key in the scope of a HEAD request, which is routed as GET; a streaming response must end after its headers."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """Wraps an application.

    Args:
        app: the wrapped application.
        settings: settings of the service. Without API keys only the names of this machine are accepted as Host, as
            protection against DNS rebinding.
        metrics: counts requests.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self.app, self.metrics, self.log = app, metrics, settings.access_log
        self.max_body = settings.limits.upload_bytes
        self.hosts = None if settings.keys else settings.allowed_hosts
        self.origins = settings.allowed_origins
        if self.log != "off":
            _log_to_standard_error()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it to the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, began, method = Headers(scope=scope), time.perf_counter(), scope["method"]
        status, sent = 500, 0
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        if method == "HEAD":  # a copy: the server looks at the method of its own scope
            scope = {**scope, "method": "GET", HEAD_ONLY: True}

        async def send_guarded(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
                if self.origins:
                    answer["Cross-Origin-Resource-Policy"] = "cross-origin"
                answer["X-Request-ID"] = request_id
            elif message["type"] == "http.response.body":
                if method == "HEAD":
                    message = {**message, "body": b""}
                sent += len(message.get("body", b""))
            await send(message)

        try:
            with request_span(scope, headers) as span:
                refused = self._refusal(method, headers)
                if refused is not None:
                    answer = error_response(refused.status, refused.message, code=refused.code)
                    await answer(scope, receive, send_guarded)
                else:
                    await self.app(scope, _Counted(receive, self.max_body), send_guarded)
                span.end(status, getattr(scope.get("route"), "path", "other"))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - began
            self.metrics.request(method, route, status, seconds)
            if self.log != "off":
                self._write_log(scope, method, route, status, seconds, sent)

    def _write_log(self, scope: Scope, method: str, route: str, status: int, seconds: float, sent: int) -> None:
        """One line per request. The query is left out, because it may hold the token of a share link."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": scope["state"]["request_id"],
            "client": (scope.get("client") or ("",))[0],
            "key": scope["state"].get("owner", ""),
            "method": method,
            "path": "/v1/shared/..." if route.startswith("/v1/shared") else scope["path"][:200],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "bytes": sent,
        }
        if self.log == "json":
            access.info(json.dumps(entry))
        else:
            access.info(" ".join(f"{name}={value}" for name, value in entry.items() if name != "time"))

    def _refusal(self, method: str, headers: Headers) -> ApiError | None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return ApiError(403, "Host not allowed; see --allowed-host.", code="host_not_allowed")
        if method not in ("GET", "HEAD", "OPTIONS"):
            origin = headers.get("origin")
            foreign = headers.get("sec-fetch-site") == "cross-site" or (origin and urlsplit(origin).netloc != host)
            if self.hosts is not None and foreign and origin not in self.origins:
                return ApiError(403, "Cross-site requests are not allowed; see --allow-origin.", code="cross_site")
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length) or int(length) > self.max_body:
            return _too_large(self.max_body)
        return None


class _Counted:
    """Receives a body up to the limit, regardless of its Content-Length."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.size = receive, limit, 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.size += len(message.get("body", b""))
        if self.size > self.limit:
            raise _too_large(self.limit)
        return message


def _log_to_standard_error() -> None:
    """Lines of the access log without the prefix of the other logs, so that JSON stays JSON."""
    if not access.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        access.addHandler(handler)
    access.setLevel(logging.INFO)
    access.propagate = False


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request is larger than {limit} bytes; send a smaller image.", code="request_too_large")


def _name(host: str) -> str:
    """The host without its port, lower case."""
    return re.sub(r":[0-9]{1,5}$", "", host).lower()
