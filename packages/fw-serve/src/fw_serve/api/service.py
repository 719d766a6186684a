"""Shared state of the routes, and authentication of callers."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from fw_serve.api.errors import ApiError
from fw_serve.api.metrics import Metrics
from fw_serve.intake.fetch import Fetcher
from fw_serve.intake.images import ImageDecoder
from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.model import Job, ModelCard
from fw_serve.jobs.store import Admission, JobStore
from fw_serve.settings import Settings
from fw_serve.storage import JobStorage


class Service:
    """State shared by all requests."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self.settings, self.store = settings, store
        self.fleet, self.keys = Fleet(store), KeyRing(store)
        self.storage = JobStorage(settings.data)
        self.decoder = ImageDecoder(processes=settings.decoders)
        self.fetcher = Fetcher(settings.fetch_hosts, max_bytes=settings.limits.upload_bytes)
        self.metrics = Metrics(store, self.fleet)
        self.streams = 0
        """Event streams that are open."""

    def model(self, name: str | None) -> ModelCard:
        """The model of this name, or the default model.

        Raises:
            ApiError: 503 before a worker has loaded a model, 400 for an unknown name.
        """
        cards = self.fleet.models()
        if not cards:
            raise ApiError(
                503, "The model is still loading.", code="model_loading", headers={"Retry-After": "5"}
            )  # fmt: skip
        for card in cards:
            if name in (None, card.name):
                return card
        served = ", ".join(card.name for card in cards)
        message = f"Model {str(name)[:60]!r} not found; this server has {served}."
        raise ApiError(400, message, code="model_not_found", param="model")

    def retry_after_s(self) -> int:
        """Estimated seconds until the queue has room: mean job time divided by the number of workers; 1 to 60."""
        totals = self.store.totals()
        done = totals.get("completed", 0)
        mean = totals.get("seconds", 0.0) / done if done else 5.0
        return int(min(60, max(1, round(mean / max(1, len(self.fleet.alive()))))))

    def poll_after_ms(self, job: Job) -> int | None:
        """Suggested polling interval in milliseconds; None for a finished job."""
        if job.finished:
            return None
        if job.position is not None:
            return min(5000, 500 + 500 * job.position)
        return 1000 if job.eta_seconds is None else int(min(5000, max(250, job.eta_seconds * 100)))


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The caller of a request."""

    owner: str
    """Id of the API key; empty if the service uses no keys."""
    per_minute: int | None
    """Maximum number of creations per 60 seconds."""
    max_queued: int | None
    """Maximum number of queued jobs."""

    def admission(self, queue: int) -> Admission:
        """Limits for the store to check."""
        return Admission(queue=queue, own_queue=self.max_queued, per_minute=self.per_minute)


async def service_of(request: Request) -> Service:
    """The service of this application."""
    return request.app.state.service


async def caller_of(request: Request) -> Caller:
    """The caller. Raises ApiError 401 without a valid key, if the service uses keys."""
    service: Service = request.app.state.service
    if not service.settings.keys:
        return Caller(owner="", per_minute=None, max_queued=None)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = await run_in_threadpool(service.keys.check, token.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise ApiError(
            401,
            "A valid API key is required: Authorization: Bearer fw-...",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Caller(owner=key.id, per_minute=key.per_minute, max_queued=key.max_queued)


Services = Annotated[Service, Depends(service_of)]
Callers = Annotated[Caller, Depends(caller_of)]
