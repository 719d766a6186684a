"""Shared state of the routes, and authentication of callers."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from fw_serve.api.errors import ApiError
from fw_serve.api.webhooks import Webhooks
from fw_serve.http.metrics import Metrics
from fw_serve.intake.fetch import Fetcher
from fw_serve.intake.images import ImageDecoder
from fw_serve.intake.turns import Turns
from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.model import Job, ModelCard, WorldRequest
from fw_serve.jobs.store import Admission, JobStore
from fw_serve.settings import Settings
from fw_serve.storage import JobStorage

FRESH_S = 0.2
"""Maximum age of a state that event streams share."""
MAX_WATCHED = 1000
"""Number of states above which old ones are dropped."""


class Watched:
    """Latest states of followed videos, so that many event streams of one video cost one query."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], tuple[float, tuple[str, bool]]] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def state(self, owner: str, video_id: str, read: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
        """Serialized video and whether it is finished, at most `FRESH_S` old. Raises what `read` raises."""
        key = (owner, video_id)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            known = self._states.get(key)
            if known is not None and time.monotonic() - known[0] < FRESH_S:
                return known[1]
            try:
                found = await run_in_threadpool(read)
            except BaseException:
                self._states.pop(key, None)
                self._locks.pop(key, None)
                raise
            if found[1]:  # finished: the streams end
                self._states.pop(key, None)
                self._locks.pop(key, None)
            else:
                self._states[key] = (time.monotonic(), found)
                self._forget()
            return found

    def _forget(self) -> None:
        """Drop states that nobody has followed for a while."""
        if len(self._states) > MAX_WATCHED:
            old = [key for key, (when, _) in self._states.items() if time.monotonic() - when > 60]
            for key in old:
                del self._states[key]
                self._locks.pop(key, None)


class Service:
    """State shared by all requests."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self.settings, self.store = settings, store
        self.fleet, self.keys = Fleet(store), KeyRing(store)
        self.storage = JobStorage(settings.data, settings.artifacts)
        self.decoder = ImageDecoder(processes=settings.decoders)
        self.fetcher = Fetcher(settings.fetch_hosts, max_bytes=settings.limits.upload_bytes)
        self.metrics = Metrics(store, self.fleet, self.storage)
        self.webhooks = Webhooks(store, settings.webhook_hosts, settings.webhook_secret)
        self.decoding = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        """Threads that wait for the decoding processes, so that other requests keep theirs."""
        self.turns = Turns(settings.decoders, settings.limits.creating)
        """Turns at decoding, by owner."""
        self.creating: Counter[str] = Counter()
        """Creations in progress by owner."""
        self.buffered: Counter[str] = Counter()
        """Bytes of request bodies in progress by owner."""
        self.streams: Counter[str] = Counter()
        """Open event streams by owner."""
        self.watched = Watched()
        """States that event streams share."""

    def close(self) -> None:
        """End processes and threads."""
        self.decoding.shutdown(wait=False, cancel_futures=True)
        self.decoder.close()
        self.webhooks.close()

    def free_bytes(self) -> int:
        """Free space of the data folder beyond the reserve; negative if the disk is full."""
        return self.storage.free_bytes() - self.settings.limits.free_bytes

    def check_disk(self) -> None:
        """Raise ApiError 507 if the disk is full."""
        if self.free_bytes() < 0:
            raise storage_full()

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
        mean = self.mean_seconds()
        return int(min(60, max(1, round((5.0 if mean is None else mean) / max(1, len(self.fleet.alive()))))))

    def mean_seconds(self) -> float | None:
        """Mean running time of completed jobs; None before the first one."""
        totals = self.store.totals()
        done = totals.get("completed", 0)
        return totals.get("seconds", 0.0) / done if done else None

    def seconds_of(self, request: WorldRequest, card: ModelCard) -> float | None:
        """Estimated running time of a job, from completed jobs of its model; None before the first one."""
        totals = self.store.totals()
        done = totals.get(f"work.{card.name}", 0.0)
        if not done:
            return None
        num_frames, height, width = request.shape
        steps = request.settings.steps(card.settings.num_inference_steps)
        return totals.get(f"seconds.{card.name}", 0.0) / done * steps * num_frames * height * width

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
    max_priority: int = 100
    """Highest priority of a job."""
    disk_bytes: int | None = None
    """Maximum size of all files."""

    def admission(self, queue: int) -> Admission:
        """Limits for the store to check."""
        return Admission(
            queue=queue, own_queue=self.max_queued, per_minute=self.per_minute, disk_bytes=self.disk_bytes
        )  # fmt: skip


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
    if key is not None:
        request.state.owner = key.id  # for the access log
    if key is None:
        raise ApiError(
            401,
            "A valid API key is required: Authorization: Bearer fw-...",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Caller(
        owner=key.id,
        per_minute=key.per_minute,
        max_queued=key.max_queued,
        max_priority=key.max_priority,
        disk_bytes=key.disk_bytes,
    )


def share_digest(token: str) -> str:
    """Digest under which the token of a read-only link is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def storage_full() -> ApiError:
    """507: the disk of the server is full."""
    return ApiError(
        507, "The disk of the server is full; try again later, or delete worlds.", code="storage_full",
        headers={"Retry-After": "60"},
    )  # fmt: skip


Services = Annotated[Service, Depends(service_of)]
Callers = Annotated[Caller, Depends(caller_of)]
