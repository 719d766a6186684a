"""What every request passes before the application: host and origin, body size, security headers, metrics.

Plain ASGI, because it also sees streams and must cost nothing.
"""

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
"""Of every answer that does not set its own."""


class Guard:
    """Wraps an application.

    Args:
        app: what is guarded.
        max_body: largest request body in bytes.
        hosts: Host headers that are answered; None answers all. Without keys this machine's names alone, so that no
            page can rebind its own name to this server.
        metrics: counts requests.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, hosts: tuple[str, ...] | None, metrics: Metrics) -> None:
        self.app, self.max_body, self.hosts, self.metrics = app, max_body, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
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
            return ApiError(
                403, "This server answers to its own names only; see --allowed-host.", code="host_not_allowed"
            )
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = headers.get("origin")
            foreign = headers.get("sec-fetch-site") == "cross-site" or (origin and urlsplit(origin).netloc != host)
            if self.hosts is not None and foreign:
                return ApiError(403, "Pages of other sites may not make requests here.", code="cross_site")
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length) or int(length) > self.max_body:
            return _too_large(self.max_body)
        return None


class _Counted:
    """Receives a body and stops at the limit, whatever its header said."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.size = receive, limit, 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.size += len(message.get("body", b""))
        if self.size > self.limit:
            raise _too_large(self.limit)
        return message


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request has more than {limit} bytes; send a smaller picture.", code="request_too_large")


def _name(host: str) -> str:
    """The host without its port, lower case."""
    return re.sub(r":[0-9]{1,5}$", "", host).lower()
