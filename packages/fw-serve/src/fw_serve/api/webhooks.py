"""Webhooks: a signed POST to the URL of a job when it has finished, repeated until it is accepted.

The body is `{"id", "type": "video.completed" | "video.failed", "created_at", "data": VIDEO}`. Headers follow the
Standard Webhooks specification: `webhook-id`, `webhook-timestamp`, and `webhook-signature: v1,BASE64`, an HMAC-SHA256
of `ID.TIMESTAMP.BODY` with the secret of the operator.
"""

import base64
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError

from fw_serve.api.errors import ApiError
from fw_serve.api.schemas import Video
from fw_serve.intake.fetch import Fetcher, FetchError
from fw_serve.jobs.model import Job, job_of_row
from fw_serve.jobs.store import JobStore
from fw_serve.jobs.tables import jobs, reader

log = logging.getLogger("fw_serve.webhooks")

PAUSES_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0)
"""Seconds before each repetition; afterwards the webhook is given up."""
BATCH = 20
"""Webhooks of one owner in a row, before the other owners have a turn."""
SENDERS = 8
"""Owners whose webhooks are sent at the same time. A slow receiver delays those of its owner; eight of them, all."""
TIMEOUT_S = 10.0

Post = Callable[[str, str, bytes, dict[str, str]], int]
"""Sends a body with headers to a URL, at a checked address, and returns the status."""


class Webhooks:
    """Sends the webhooks of finished jobs.

    Args:
        store: the job store.
        hosts: hosts that a webhook may name, as for `Fetcher`; none refuses all webhooks.
        secret: key of the signatures.
        post: how to send; for tests.
    """

    def __init__(self, store: JobStore, hosts: tuple[str, ...], secret: str, *, post: Post | None = None) -> None:
        self.store, self.hosts, self.secret = store, hosts, secret
        self.checker = Fetcher(hosts, max_bytes=0)
        self._post = post or _send
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="webhook")
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def check(self, url: str | None) -> None:
        """Raise ApiError 400 if the operator does not allow this URL."""
        if url is None:
            return
        if not self.hosts:
            message = "this server sends no webhooks; poll, or follow the events"
            raise ApiError(400, f"webhook: {message}", code="invalid_value", param="webhook")
        try:
            self.checker.check(url)
        except FetchError as error:
            message = str(error).replace("--fetch-host", "--webhook-host")
            raise ApiError(400, f"webhook: {message}", code="invalid_value", param="webhook") from None

    def send_due(self) -> list[Future[int]]:
        """Start sending the webhooks that are due, at most one at a time for each owner, and do not wait.

        Returns:
            One future for each owner, with the number of webhooks that were accepted.
        """
        now = self.store.clock()
        with self._lock:
            free = SENDERS - len(self._busy)
            owners = select(jobs.c.owner).where(jobs.c.webhook_at <= now, jobs.c.owner.not_in(self._busy))
            owners = owners.group_by(jobs.c.owner).order_by(func.min(jobs.c.webhook_at)).limit(free)
            with reader(self.store.engine) as connection:
                waiting = list(connection.execute(owners).scalars())
            self._busy.update(waiting)
            return [self._pool.submit(self._send_of, owner) for owner in waiting]

    def close(self) -> None:
        """Start no more webhooks; another process or the next start sends them."""
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _send_of(self, owner: str) -> int:
        try:
            due = select(jobs).where(jobs.c.owner == owner, jobs.c.webhook_at <= self.store.clock())
            with reader(self.store.engine) as connection:
                rows = connection.execute(due.order_by(jobs.c.webhook_at).limit(BATCH)).all()
            accepted = 0
            for row in rows:
                if self._closing.is_set() or not self._deliver(job_of_row(row), row.webhook_tries, row.webhook_at):
                    break  # after a failure, the other owners have a turn
                accepted += 1
        except SQLAlchemyError as error:
            log.error("the database does not respond, trying again: %s", error)
            return 0
        except Exception:
            log.exception("the webhooks of one owner failed; trying again")
            return 0
        else:
            return accepted
        finally:
            with self._lock:
                self._busy.discard(owner)

    def _deliver(self, job: Job, tries: int, due: float) -> bool:
        following = self.store.clock() + PAUSES_S[tries] if tries < len(PAUSES_S) else None
        mine = (jobs.c.id == job.id) & (jobs.c.webhook_at == due)  # one replica sends it
        with self.store.engine.begin() as connection:
            claimed = update(jobs).where(mine).values(webhook_at=following, webhook_tries=tries + 1)
            if connection.execute(claimed).rowcount != 1:
                return False
        accepted = self._try(job)
        if accepted:
            with self.store.engine.begin() as connection:
                connection.execute(update(jobs).where(jobs.c.id == job.id).values(webhook_at=None))
        elif following is None:
            log.error("webhook of %s given up after %d attempts", job.id, tries + 1)
        return accepted

    def _try(self, job: Job) -> bool:
        assert job.webhook is not None, "only jobs with a webhook are due"
        timestamp, identity = int(self.store.clock()), f"evt_{job.id}"
        kind = "video.completed" if job.status == "completed" else "video.failed"
        event = {"id": identity, "type": kind, "created_at": timestamp, "data": Video.of(job).model_dump(mode="json")}
        body = json.dumps(event).encode()
        headers = {
            "Content-Type": "application/json",
            "webhook-id": identity,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self.secret, identity, timestamp, body),
        }
        try:
            _, _, _, address = self.checker.check(job.webhook)
            status = self._post(job.webhook, address, body, headers)
        except (FetchError, httpx.HTTPError) as error:
            log.warning("webhook of %s failed: %s", job.id, error)
            return False
        if not 200 <= status < 300:
            log.warning("webhook of %s was answered with status %d", job.id, status)
        return 200 <= status < 300


def signature(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """Value of the header `webhook-signature`."""
    message = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret.encode(), message, hashlib.sha256).digest()).decode()


def _send(url: str, address: str, body: bytes, headers: dict[str, str]) -> int:
    """POST to the checked address of the host, without following redirects or reading the body of the response."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    pinned = parts._replace(netloc=f"[{address}]" if ":" in address else address).geturl()
    with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client:
        extensions = {"sni_hostname": host}
        headers = {**headers, "Host": host}
        with client.stream("POST", pinned, content=body, headers=headers, extensions=extensions) as response:
            return response.status_code
