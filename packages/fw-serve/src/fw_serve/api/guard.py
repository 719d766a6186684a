"""ASGI middleware for every request: host and origin checks, body size, security headers, metrics."""

import re
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fw_serve.api.errors import ApiError, error_response
from fw_serve.api.metrics import Metrics

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Default headers of every response."""


class Guard:
    """Wraps an application.

    Args:
        app: the wrapped application.
        max_body: largest request body in bytes.
        hosts: accepted Host headers; None accepts all. Without API keys only the names of this machine are accepted,
            as protection against DNS rebinding.
        metrics: counts requests.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, hosts: tuple[str, ...] | None, metrics: Metrics) -> None:
        self.app, self.max_body, self.hosts, self.metrics = app, max_body, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it to the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, began, status = Headers(scope=scope), time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            refused = self._refusal(scope, headers)
            if refused is not None:
                await error_response(refused.status, refused.message, code=refused.code)(scope, receive, send_guarded)
                return
            await self.app(scope, _Counted(receive, self.max_body), send_guarded)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(scope["method"], route, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return ApiError(403, "Host not allowed; see --allowed-host.", code="host_not_allowed")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = headers.get("origin")
            foreign = headers.get("sec-fetch-site") == "cross-site" or (origin and urlsplit(origin).netloc != host)
            if self.hosts is not None and foreign:
                return ApiError(403, "Cross-site requests are not allowed.", code="cross_site")
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


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request is larger than {limit} bytes; send a smaller image.", code="request_too_large")


def _name(host: str) -> str:
    """The host without its port, lower case."""
    return re.sub(r":[0-9]{1,5}$", "", host).lower()
