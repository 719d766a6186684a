"""The parts that the routes share, and who is asking."""

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
    """Everything that outlives a request."""

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
        """The model of this name, or the one that is served.

        Raises:
            ApiError: 503 before a worker ever loaded one, 400 for another name.
        """
        cards = self.fleet.models()
        if not cards:
            raise ApiError(
                503, "The model is still being loaded.", code="model_loading", headers={"Retry-After": "5"}
            )  # fmt: skip
        for card in cards:
            if name in (None, card.name):
                return card
        served = ", ".join(card.name for card in cards)
        message = f"There is no model {str(name)[:60]!r} here; this server has {served}."
        raise ApiError(400, message, code="model_not_found", param="model")

    def retry_after_s(self) -> int:
        """How long until a place in the queue is free: the mean time of a job, shared by the workers; 1 to 60."""
        totals = self.store.totals()
        done = totals.get("completed", 0)
        mean = totals.get("seconds", 0.0) / done if done else 5.0
        return int(min(60, max(1, round(mean / max(1, len(self.fleet.alive()))))))

    def poll_after_ms(self, job: Job) -> int | None:
        """When it is worth asking again; None for a job that is finished."""
        if job.finished:
            return None
        if job.position is not None:
            return min(5000, 500 + 500 * job.position)
        return 1000 if job.eta_seconds is None else int(min(5000, max(250, job.eta_seconds * 100)))


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks."""

    owner: str
    """Id of the API key; empty where no keys are used."""
    per_minute: int | None
    """Creations within 60 seconds."""
    max_queued: int | None
    """Jobs that may wait at once."""

    def admission(self, queue: int) -> Admission:
        """What the store shall check."""
        return Admission(queue=queue, own_queue=self.max_queued, per_minute=self.per_minute)


async def service_of(request: Request) -> Service:
    """The service of this application."""
    return request.app.state.service


async def caller_of(request: Request) -> Caller:
    """Who asks. Raises ApiError 401 without a valid key, where keys are used."""
    service: Service = request.app.state.service
    if not service.settings.keys:
        return Caller(owner="", per_minute=None, max_queued=None)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = await run_in_threadpool(service.keys.check, token.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise ApiError(
            401,
            "A valid API key is needed: Authorization: Bearer fw-...",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Caller(owner=key.id, per_minute=key.per_minute, max_queued=key.max_queued)


Services = Annotated[Service, Depends(service_of)]
Callers = Annotated[Caller, Depends(caller_of)]
