"""Limits of connections, enforced below the application: size of a request's head, timeouts, connections per address.

httptools has no limit of its own: it keeps a header line of any length, and joins its pieces again for every packet.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32_768
"""Maximum size of the request line and all headers, or of a chunked body's trailers."""
HEADERS = 100
"""Maximum number of headers."""
PIPELINED = 16
"""Maximum number of requests that a connection may send before the response to the first one."""
UNPARSED_BYTES = 65_536
"""Maximum number of bytes received within a body without any content, such as an endless chunk extension."""


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits of each connection."""

    per_address: int = 512
    """Maximum number of open connections per client address; 0 for no limit."""
    head_s: float = 20.0
    """Seconds to send the request line and headers, from the connection or from the first byte of a later request."""
    body_s: float = 300.0
    """Seconds to send the body."""
    read_s: float = 300.0
    """Seconds that a client may take to read what is ready to be sent, before more of a response follows."""
    idle_s: int = 75
    """Seconds that a connection stays open between requests."""


class LimitedProtocol(HttpToolsProtocol):
    """HTTP protocol of uvicorn with `ConnectionLimits`. Make a subclass with `limited_protocol`."""

    limits = ConnectionLimits()
    open_connections: ClassVar[Counter[str]] = Counter()
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _address = ""
    _in_head = True
    _raw_bytes = _field_bytes = _fields = 0
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if its address has too many."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self.open_connections[self._address] += 1
        if 0 < self.limits.per_address < self.open_connections[self._address]:
            self._refuse(503, "too many connections from this address")
            return
        self._start_deadline(self.limits.head_s, "the request line and headers")

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection as closed."""
        self._stop_deadline()
        self._stop_unread()
        self.open_connections[self._address] -= 1
        if self.open_connections[self._address] <= 0:
            del self.open_connections[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a packet, within the limits."""
        if self._refused:
            return
        if self._in_head and self._deadline is None:  # the first byte of another request
            self._start_deadline(self.limits.head_s, "the request line and headers")
        self._raw_bytes += len(data)
        super().data_received(data)
        if self.parser is None or self._refused:
            return
        if self._in_head and self._raw_bytes > HEAD_BYTES:
            self._refuse(431, f"the request line and headers are larger than {HEAD_BYTES} bytes")
        elif not self._in_head and self._raw_bytes > UNPARSED_BYTES + len(data):
            self._refuse(400, "the body is malformed")

    def pause_writing(self) -> None:
        """Start the time limit for a client that does not read."""
        super().pause_writing()
        self._stop_unread()
        self._unread = self.loop.call_later(self.limits.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time limit when the client reads again."""
        self._stop_unread()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Start counting a request."""
        self._field_bytes = self._fields = 0
        if len(self.pipeline) >= PIPELINED and not self._refused:
            self._refuse(400, f"more than {PIPELINED} requests without waiting for a response")
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the request line."""
        self._field_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header or trailer; trailers are dropped."""
        self._field_bytes += len(name) + len(value)
        self._fields += 1
        if self._in_head and not self._too_large():
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or refuse it for its size."""
        self._in_head = False
        self._raw_bytes = 0
        if self._refused:
            return
        if self._too_large():
            self._refuse(431, f"more than {HEAD_BYTES} bytes or {HEADERS} headers")
            return
        self._start_deadline(self.limits.body_s, "the request body")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._raw_bytes = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        self._in_head = True
        self._raw_bytes = 0
        self._stop_deadline()
        if not self._refused:
            super().on_message_complete()

    def _too_large(self) -> bool:
        return self._field_bytes > HEAD_BYTES or self._fields > HEADERS

    def _start_deadline(self, seconds: float, part: str) -> None:
        self._stop_deadline()
        message = f"{part} did not arrive within {seconds:g} s"
        self._deadline = self.loop.call_later(seconds, self._refuse, 408, message)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _refuse(self, status: int, message: str) -> None:
        """Answer in the API's format, unless an answer is under way, and close the connection."""
        self._refused = True
        self._stop_deadline()
        if self.transport.is_closing():
            return
        waiting = self.cycle is None or not self.cycle.response_started or self.cycle.response_complete
        if waiting and not self.pipeline:
            reason = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
            kind = "server_error" if status >= 500 else "invalid_request_error"
            body = f'{{"error": {{"message": "{message}", "type": "{kind}", "param": null, "code": null}}}}'
            head = (
                f"HTTP/1.1 {status} {reason.get(status, 'Service Unavailable')}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write((head + body).encode())
        self.transport.close()


def limited_protocol(limits: ConnectionLimits) -> type[Any]:
    """A protocol class for uvicorn's `http` setting, with its own count of connections."""
    return type("Protocol", (LimitedProtocol,), {"limits": limits, "open_connections": Counter()})
