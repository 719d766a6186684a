"""ASGI middleware for small responses: ETag and 304, gzip, Vary. Files and streams pass unchanged."""

import gzip
import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COMPRESSED = ("application/json", "text/plain", "text/html", "text/javascript", "text/css", "image/svg+xml")
"""Media types worth compressing."""
SMALLEST = 600
"""Smaller bodies are sent as they are."""
REVALIDATED = "no-cache"
"""Default Cache-Control of GET responses: a cache must ask again, with the ETag."""


class Conditional:
    """Wraps an application: responses that are sent as one piece get an ETag and may be compressed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and finish its response."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        asked, start = Headers(scope=scope), None

        async def send_finished(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                head, start = start, None
                if not message.get("more_body", False) and head["status"] == 200:
                    message = _finish(asked, head, message)
                await send(head)
            await send(message)

        await self.app(scope, receive, send_finished)


def _finish(asked: Headers, head: Message, message: Message) -> Message:
    """Set headers of a whole response; returns its body, compressed or empty."""
    answer, body = MutableHeaders(scope=head), message.get("body", b"")
    kind = answer.get("content-type", "").partition(";")[0]
    if kind not in COMPRESSED:
        return message
    answer.add_vary_header("Accept-Encoding")
    answer.setdefault("cache-control", REVALIDATED)
    if "etag" not in answer:
        answer["etag"] = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'
    if matches(asked.get("if-none-match"), answer["etag"]):
        head["status"] = 304
        for name in ("content-length", "content-type"):
            del answer[name]
        return {"type": "http.response.body", "body": b""}
    if len(body) >= SMALLEST and "gzip" in asked.get("accept-encoding", "") and "content-encoding" not in answer:
        body = gzip.compress(body, 5, mtime=0)
        answer["content-encoding"] = "gzip"
        answer["content-length"] = str(len(body))
    return {**message, "body": body}


def matches(given: str | None, etag: str) -> bool:
    """Whether a value of If-None-Match names this ETag (weak comparison, RFC 9110)."""
    if given is None:
        return False
    names = [name.strip().removeprefix("W/") for name in given.split(",")]
    return "*" in names or etag.removeprefix("W/") in names
