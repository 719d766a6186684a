"""OpenTelemetry traces, if `fw-serve up --traces` asks for them: one span per request, within the caller's trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

_TRACER: list[Any] = []
"""The tracer, once it is set up."""


class RequestSpan:
    """A span of a request; does nothing without a tracer."""

    def __init__(self, span: Any = None) -> None:
        self.span = span

    def end(self, status: int, route: str) -> None:
        """Record the status and the route."""
        if self.span is not None:
            self.span.update_name(f"{self.span.attributes['http.request.method']} {route}")
            self.span.set_attribute("http.route", route)
            self.span.set_attribute("http.response.status_code", status)


def set_up_tracing(exporter: Any = None) -> None:
    """Send spans to OTEL_EXPORTER_OTLP_ENDPOINT, or to `exporter`.

    Raises:
        ValueError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    except ModuleNotFoundError as error:
        raise ValueError(f"--traces needs {error.name}: pip install 'fw-serve[otel]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "fw-serve"}))
    processor = BatchSpanProcessor(OTLPSpanExporter()) if exporter is None else SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    _TRACER[:] = [provider.get_tracer("fw_serve")]


@contextmanager
def request_span(scope: Scope, headers: Headers) -> Iterator[RequestSpan]:
    """A span around a request."""
    if not _TRACER:
        yield RequestSpan()
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    attributes = {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "fw.request_id": scope["state"]["request_id"],
    }
    with _TRACER[0].start_as_current_span(
        scope["method"], context=extract(dict(headers)), kind=SpanKind.SERVER, attributes=attributes
    ) as span:
        yield RequestSpan(span)
