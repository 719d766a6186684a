"""The job store: every change of a job's state is one transaction. All processes share it.

An attempt holds a lease: a token and a time. Only its holder may write to a running job; an attempt that lost its lease
gets `LeaseLostError` at its next report and stops. Cancelling, deleting and reassigning a job all take the lease, so no
job can be completed twice.

Only a worker that died on its own costs a job an attempt. If an operator stops the worker, the service or the machine,
the job is queued again without counting.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, case, func, or_, select, update

from fw_serve.jobs.database import open_engine
from fw_serve.jobs.errors import (
    DiskShareError,
    IdempotencyMismatchError,
    LeaseLostError,
    QueueFullError,
    RateLimitedError,
    UnknownCursorError,
)
from fw_serve.jobs.model import REQUEST_VERSION, Job, NewJob, WorldRequest, job_of_row
from fw_serve.jobs.tables import Clock, jobs, reader, serialize, totals

RATE_WINDOW_S = 60.0
"""Window of the rate limit."""

WORKER_LOST = "worker_lost"
"""Error code of a job whose worker died in its last attempt."""

MAX_INTERRUPTIONS = 20
"""A job that was running whenever the service or machine went down fails after this many times, as a likely cause."""

Loss = Literal["crashed", "stopped", "out_of_memory"]
"""How a worker ended: on its own, by an operator, or killed by the system for its memory."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Limits of creations; None is no limit."""

    queue: int | None = None
    """Maximum number of queued jobs."""
    own_queue: int | None = None
    """Maximum number of queued jobs of this owner."""
    per_minute: int | None = None
    """Maximum number of creations of this owner within 60 seconds."""
    disk_bytes: int | None = None
    """Maximum size of the files of this owner."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Part of a list."""

    jobs: Sequence[Job]
    """In the requested order."""
    has_more: bool
    """Whether more jobs follow."""


class JobStore:
    """Jobs in SQLite or PostgreSQL.

    Args:
        url: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME.
        clock: returns seconds since 1970. Clocks of replicas must agree to within a fraction of the lease.
        max_attempts: a job fails after its worker has died this many times.
        keep_s: finished jobs expire after this many seconds; None keeps them.

    Raises:
        ValueError: see `open_engine`.
    """

    def __init__(
        self, url: str, *, clock: Clock = time.time, max_attempts: int = 3, keep_s: float | None = None
    ) -> None:
        self.engine = open_engine(url)
        self.clock = clock
        self.max_attempts, self.keep_s = max_attempts, keep_s

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def check(self, owner: str, admission: Admission) -> None:
        """Raise what `create` would raise now, so that refusals cost little. Nothing is reserved."""
        with reader(self.engine) as connection:
            self._admit(connection, owner, admission, self.clock(), 0)

    def known_key(self, owner: str, idempotency_key: str) -> bool:
        """Whether the owner has used this idempotency key."""
        same = and_(jobs.c.owner == owner, jobs.c.idempotency_key == idempotency_key)
        with reader(self.engine) as connection:
            return connection.execute(select(jobs.c.seq).where(same)).first() is not None

    def create(self, new: NewJob, admission: Admission) -> tuple[Job, bool]:
        """Queue a job if the limits allow. The limits are exact for any number of concurrent calls.

        Returns:
            The job, and whether it is new: a known idempotency key returns its first job.

        Raises:
            IdempotencyMismatchError: the key was used for another request.
            RateLimitedError: the owner created too many jobs within the last minute.
            QueueFullError: the queue, or the owner's share of it, is full.
            DiskShareError: the owner's files use its share of the disk.
        """
        now = self.clock()
        with self.engine.begin() as connection:
            serialize(connection)
            if new.idempotency_key is not None:
                same = and_(jobs.c.owner == new.owner, jobs.c.idempotency_key == new.idempotency_key)
                row = connection.execute(select(jobs).where(same)).first()
                if row is not None:
                    if row.fingerprint != new.fingerprint:
                        raise IdempotencyMismatchError("the Idempotency-Key was used for another request")
                    return job_of_row(connection.execute(_ANY_BY_ID, {"wanted": row.id}).one()), False
            self._admit(connection, new.owner, admission, now, new.bytes)
            values = {
                "id": new.id,
                "owner": new.owner,
                "status": "queued",
                "request": new.request.model_dump_json(),
                "created_at": now,
                "remixed_from": new.remixed_from,
                "extended_from": new.extended_from,
                "version": REQUEST_VERSION,
                "model": new.request.model,
                "priority": new.priority,
                "bytes": new.bytes,
                "webhook": new.webhook,
                "idempotency_key": new.idempotency_key,
                "fingerprint": new.fingerprint,
            }
            connection.execute(_INSERT, values)
            row = connection.execute(_BY_ID, {"wanted": new.id}).one()
        return job_of_row(row), True

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """A job by its id; None if it does not exist or belongs to another owner."""
        with reader(self.engine) as connection:
            if owner is None:
                row = connection.execute(_BY_ID, {"wanted": job_id}).first()
            else:
                row = connection.execute(_BY_ID_AND_OWNER, {"wanted": job_id, "asking": owner}).first()
        return None if row is None else job_of_row(row)

    def page(self, owner: str, *, after: str | None = None, limit: int = 20, newest_first: bool = True) -> Page:
        """A page of an owner's jobs.

        Args:
            owner: id of the API key.
            after: id of the last job of the previous page.
            limit: maximum number of jobs.
            newest_first: reverse the order of arrival.

        Raises:
            UnknownCursorError: `after` is no job of this owner.
        """
        wanted: list[ColumnElement[bool]] = [jobs.c.owner == owner, jobs.c.status != "deleted"]
        with reader(self.engine) as connection:
            if after is not None:
                cursor = select(jobs.c.seq).where(jobs.c.id == after, jobs.c.owner == owner)  # tombstones count
                seq = connection.execute(cursor).scalar()
                if seq is None:
                    raise UnknownCursorError(f"video {after!r} not found")
                wanted.append(jobs.c.seq < seq if newest_first else jobs.c.seq > seq)
            order = jobs.c.seq.desc() if newest_first else jobs.c.seq.asc()
            rows = connection.execute(select(jobs).where(*wanted).order_by(order).limit(limit + 1)).all()
        return Page(jobs=[job_of_row(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def counts(self) -> dict[str, int]:
        """Number of jobs by state, without `deleted`."""
        wanted = select(jobs.c.status, func.count()).where(jobs.c.status != "deleted").group_by(jobs.c.status)
        with reader(self.engine) as connection:
            found = {row[0]: row[1] for row in connection.execute(wanted)}
        return {status: found.get(status, 0) for status in ("queued", "in_progress", "completed", "failed")}

    def totals(self) -> dict[str, float]:
        """Counters since the first start: `completed`, `failed.CODE`, `requeued`, `seconds` of completed jobs, and by
        model `seconds.MODEL` and `work.MODEL` (steps x frames x height x width)."""
        with reader(self.engine) as connection:
            return {row.name: row.value for row in connection.execute(select(totals))}

    def claim(self, worker: str, lease_s: float, model: str | None = None) -> Job | None:
        """Claim the next queued job for `lease_s` seconds; None if there is none. Lost jobs are queued again first.

        Args:
            worker: name of the worker.
            lease_s: length of the lease.
            model: only jobs of this model; None takes all.
        """
        now = self.clock()
        self.reap()
        ready = [jobs.c.status == "queued", jobs.c.version <= REQUEST_VERSION]
        if model is not None:
            ready.append(jobs.c.model.in_((model, "")))  # jobs of before the migration name no model
        waiting = select(jobs.c.seq).where(*ready)
        first = waiting.order_by(jobs.c.priority.desc(), jobs.c.seq).limit(1).with_for_update(skip_locked=True)
        with reader(self.engine) as connection:  # an idle worker asks often and writes nothing
            if connection.execute(waiting.limit(1)).first() is None:
                return None
        taken = (
            update(jobs)
            .where(jobs.c.seq == first.scalar_subquery(), jobs.c.status == "queued")
            .values(
                status="in_progress",
                worker=worker,
                lease=secrets.token_hex(12),
                lease_until=now + lease_s,
                attempts=jobs.c.attempts + 1,
                started_at=now,
                **_NOTHING_DONE,
            )
            .returning(jobs)
        )
        with self.engine.begin() as connection:
            row = connection.execute(taken).first()
        return None if row is None else job_of_row(row)

    def report(
        self, lease: str, lease_s: float, *, stage: str, step: int, steps: int, progress: int, eta_seconds: float | None
    ) -> None:
        """Write the progress of an attempt and renew its lease. `progress` never decreases.

        Raises:
            LeaseLostError: stop, the attempt no longer owns the job.
        """
        rising = case((jobs.c.progress > progress, jobs.c.progress), else_=progress)
        values = {"stage": stage, "step": step, "steps": steps, "progress": rising, "eta_seconds": eta_seconds}
        self._write(lease, lease_until=self.clock() + lease_s, **values)

    def heartbeat(self, lease: str, lease_s: float) -> None:
        """Renew a lease. Raises LeaseLostError if the attempt no longer owns the job."""
        self._write(lease, lease_until=self.clock() + lease_s)

    def complete(
        self, lease: str, result: str, *, size: int = 0, work: float = 0.0, request: WorldRequest | None = None
    ) -> Job:
        """Complete a job.

        Args:
            lease: token of the attempt.
            result: name of the result folder.
            size: bytes in that folder.
            work: steps x frames x height x width, for estimates of other jobs.
            request: the request with the notes of the result; None leaves it as it is.

        Raises:
            LeaseLostError: the attempt no longer owns the job.
        """
        values = {"result": result, "progress": 100, "eta_seconds": 0.0, "bytes": jobs.c.bytes + size}
        values |= {} if request is None else {"request": request.model_dump_json()}
        return self._finish(lease, "completed", work, status="completed", **values)

    def fail(self, lease: str, code: str, message: str) -> Job:
        """Fail a job; it is not repeated. Raises LeaseLostError if the attempt no longer owns the job."""
        values = {"error_code": code, "error_message": message, "eta_seconds": None}
        return self._finish(lease, f"failed.{code}", 0.0, status="failed", **values)

    def give_back(self, lease: str) -> None:
        """Put a running job back to its old position: its worker is being stopped. The attempt is not counted."""
        changed = {"status": "queued", "attempts": _attempts_but_one(), **_NO_LEASE, **_NOTHING_DONE}
        self._write(lease, **changed)

    def release(self, worker: str, loss: Loss = "crashed") -> int:
        """Free the jobs of a worker whose process has ended.

        Args:
            worker: name of the worker.
            loss: `crashed` counts as an attempt, and fails the job after `max_attempts`; `stopped` does not count;
                `out_of_memory` fails the job, because it would need as much memory again.

        Returns:
            Number of jobs that it held.
        """
        held = and_(jobs.c.status == "in_progress", jobs.c.worker == worker)
        queue_again = {"status": "queued", **_NO_LEASE, **_NOTHING_DONE}
        if loss == "stopped":
            with self.engine.begin() as connection:
                again = update(jobs).where(held).values(attempts=_attempts_but_one(), **queue_again)
                return connection.execute(again).rowcount
        if loss == "out_of_memory":
            code, failing = "out_of_memory", held
            message = "The system ended the worker because memory ran out; request fewer frames or a smaller size."
        else:
            code, failing = WORKER_LOST, and_(held, jobs.c.attempts >= self.max_attempts)
            message = f"The worker died during this job, {self.max_attempts} times; the job itself may be fine."
        with self.engine.begin() as connection:
            ended = connection.execute(update(jobs).where(failing).values(**self._failed(code, message))).rowcount
            queued = connection.execute(update(jobs).where(held).values(**queue_again)).rowcount
            _count(connection, f"failed.{code}", ended)
            _count(connection, "requeued", queued)
        return ended + queued

    def reap(self) -> int:
        """Queue running jobs again whose lease is over: their whole service or machine went down, or was unreachable.

        The attempt is not counted. Its token stays, so that an attempt that was only cut off from the database can
        take the job back as long as no other worker has claimed it.
        """
        now = self.clock()
        lost = and_(jobs.c.status == "in_progress", jobs.c.lease_until < now)
        with reader(self.engine) as connection:
            if connection.execute(select(jobs.c.seq).where(lost).limit(1)).first() is None:
                return 0
        message = f"The service went down during this job, {MAX_INTERRUPTIONS} times."
        failing = and_(lost, jobs.c.interruptions >= MAX_INTERRUPTIONS - 1)
        again = {"status": "queued", "lease_until": None, "interruptions": jobs.c.interruptions + 1}
        with self.engine.begin() as connection:
            failed = self._failed(WORKER_LOST, message)
            ended = connection.execute(update(jobs).where(failing).values(**failed)).rowcount
            values = {**again, "attempts": _attempts_but_one(), **_NOTHING_DONE}
            queued = connection.execute(update(jobs).where(lost).values(**values)).rowcount
            _count(connection, f"failed.{WORKER_LOST}", ended)
            _count(connection, "requeued", queued)
        return ended + queued

    def cancel(self, job_id: str, owner: str) -> Job | None:
        """Stop a job; it fails with code `cancelled`. A finished job is unchanged; None if there is no such job."""
        running = and_(jobs.c.id == job_id, jobs.c.owner == owner, jobs.c.status.in_(("queued", "in_progress")))
        with self.engine.begin() as connection:
            failed = self._failed("cancelled", "The job was cancelled.")
            stopped = connection.execute(update(jobs).where(running).values(**failed))
            _count(connection, "failed.cancelled", stopped.rowcount)
        return self.get(job_id, owner)

    def share(self, job_id: str, owner: str, digest: str | None) -> bool:
        """Set or remove the token of a job's read-only link. False if there is no such job."""
        mine = and_(jobs.c.id == job_id, jobs.c.owner == owner, jobs.c.status != "deleted")
        with self.engine.begin() as connection:
            return connection.execute(update(jobs).where(mine).values(share=digest)).rowcount == 1

    def shared(self, digest: str) -> Job | None:
        """The job of a read-only link; None if there is none."""
        with reader(self.engine) as connection:
            row = connection.execute(select(jobs).where(jobs.c.share == digest, jobs.c.status != "deleted")).first()
        return None if row is None else job_of_row(row)

    def delete(self, job_id: str, owner: str | None = None) -> bool:
        """Delete a job, stopping it if it runs; the caller removes its files. False if there is no such job."""
        wanted = [jobs.c.id == job_id, jobs.c.status != "deleted"]
        if owner is not None:
            wanted.append(jobs.c.owner == owner)
        gone = {"status": "deleted", "finished_at": self.clock(), "error_message": None, "result": None, "bytes": 0}
        gone |= {"share": None, "webhook": None, "webhook_at": None, **_NO_LEASE}
        with self.engine.begin() as connection:
            row = connection.execute(select(jobs.c.request).where(*wanted)).first()
            if row is None:
                return False
            blank = WorldRequest.stored(row.request).without_text().model_dump_json()
            deleted = connection.execute(update(jobs).where(*wanted).values(request=blank, **gone))
        return deleted.rowcount == 1

    def expired(self) -> list[str]:
        """Ids of expired jobs."""
        over = select(jobs.c.id).where(jobs.c.expires_at < self.clock(), jobs.c.status != "deleted")
        with reader(self.engine) as connection:
            return list(connection.execute(over).scalars())

    def purge(self, older_s: float) -> int:
        """Remove tombstones older than `older_s` seconds, which frees their idempotency keys."""
        old = and_(jobs.c.status == "deleted", jobs.c.finished_at < self.clock() - older_s)
        with self.engine.begin() as connection:
            return connection.execute(jobs.delete().where(old)).rowcount

    def known(self) -> dict[str, str | None]:
        """Result folder by id of every job that is not deleted."""
        with reader(self.engine) as connection:
            rows = connection.execute(select(jobs.c.id, jobs.c.result).where(jobs.c.status != "deleted"))
            return {row.id: row.result for row in rows}

    def leases(self) -> set[str]:
        """Tokens of running attempts, and of those that may still take their job back."""
        with reader(self.engine) as connection:
            held = select(jobs.c.lease).where(jobs.c.lease.is_not(None))
            return set(connection.execute(held).scalars())

    def disk_usage(self, owner: str) -> int:
        """Bytes of all files of an owner."""
        with reader(self.engine) as connection:
            return int(connection.execute(_BYTES.where(jobs.c.owner == owner)).scalar() or 0)

    def _admit(self, connection: Connection, owner: str, admission: Admission, now: float, new_bytes: int) -> None:
        if admission.per_minute is not None:
            recent = and_(jobs.c.owner == owner, jobs.c.created_at > now - RATE_WINDOW_S)
            times = select(jobs.c.created_at).where(recent).order_by(jobs.c.created_at.desc())
            made = list(connection.execute(times.limit(admission.per_minute)).scalars())
            if len(made) >= admission.per_minute:
                oldest = made[-1] if made else now
                raise RateLimitedError(admission.per_minute, oldest + RATE_WINDOW_S - now)
        if admission.own_queue is not None:
            own = connection.execute(_WAITING.where(jobs.c.owner == owner)).scalar() or 0
            if own >= admission.own_queue:
                raise QueueFullError(own, admission.own_queue, own=True)
        if admission.queue is not None:
            everyone = connection.execute(_WAITING).scalar() or 0
            if everyone >= admission.queue:
                raise QueueFullError(everyone, admission.queue, own=False)
        if admission.disk_bytes is not None:
            used = int(connection.execute(_BYTES.where(jobs.c.owner == owner)).scalar() or 0)
            if used + new_bytes > admission.disk_bytes or used >= admission.disk_bytes:
                raise DiskShareError(used, admission.disk_bytes)

    def _failed(self, code: str, message: str) -> dict[str, object]:
        values = {"status": "failed", "error_code": code, "error_message": message, "eta_seconds": None}
        return {**values, **self._ended(), **_NO_LEASE}

    def _ended(self) -> dict[str, object]:
        """Columns of every final state: the time, when it expires, and when its webhook is due."""
        now = self.clock()
        expires = None if self.keep_s is None else now + self.keep_s
        due = case((jobs.c.webhook.is_not(None), now), else_=None)
        return {"finished_at": now, "expires_at": expires, "webhook_at": due}

    def _finish(self, lease: str, counted: str, work: float, **values: object) -> Job:
        now = self.clock()
        values |= {"attempts": _attempts_and_one(), **self._ended(), **_NO_LEASE}
        changed = update(jobs).where(_held(lease)).values(**values).returning(jobs)
        with self.engine.begin() as connection:
            row = connection.execute(changed).first()
            if row is None:
                raise LeaseLostError(_LOST)
            _count(connection, counted, 1)
            if row.status == "completed":
                _count(connection, "seconds", now - row.started_at)
            if work:
                _count(connection, f"seconds.{row.model}", now - row.started_at)
                _count(connection, f"work.{row.model}", work)
        return job_of_row(row)

    def _write(self, held: str, /, **values: object) -> None:
        """Change a running job. A job that was queued again meanwhile is taken back, see `reap`."""
        values = {"status": "in_progress", "attempts": _attempts_and_one(), **values}
        with self.engine.begin() as connection:
            if connection.execute(update(jobs).where(_held(held)).values(**values)).rowcount != 1:
                raise LeaseLostError(_LOST)


# Frequent statements, built once: building one takes longer than SQLite takes to run it.
_WAITING = select(func.count()).select_from(jobs).where(jobs.c.status == "queued")
_OTHER = jobs.alias()
_BEFORE = or_(
    _OTHER.c.priority > jobs.c.priority, and_(_OTHER.c.priority == jobs.c.priority, _OTHER.c.seq < jobs.c.seq)
)
_AHEAD = select(func.count()).select_from(_OTHER).where(_OTHER.c.status == "queued", _BEFORE)
_BYTES = select(func.sum(jobs.c.bytes)).select_from(jobs)
_PLACE = case((jobs.c.status == "queued", 1 + _AHEAD.scalar_subquery()), else_=None).label("position")
_ANY_BY_ID = select(jobs, _PLACE).where(jobs.c.id == bindparam("wanted"))
_BY_ID = _ANY_BY_ID.where(jobs.c.status != "deleted")
_BY_ID_AND_OWNER = _BY_ID.where(jobs.c.owner == bindparam("asking"))
_INSERT = jobs.insert()

_LOST = "the job was cancelled, deleted, or given to another worker"
_NO_LEASE = {"lease": None, "lease_until": None}
_NOTHING_DONE = {"stage": None, "step": 0, "steps": 0, "progress": 0, "eta_seconds": None}


def _held(lease: str) -> ColumnElement[bool]:
    """The job of an attempt, while no other worker has claimed it."""
    return and_(jobs.c.lease == lease, jobs.c.status.in_(("in_progress", "queued")))


def _attempts_and_one() -> ColumnElement[int]:
    return case((jobs.c.status == "queued", jobs.c.attempts + 1), else_=jobs.c.attempts)


def _attempts_but_one() -> ColumnElement[int]:
    return case((jobs.c.status == "in_progress", jobs.c.attempts - 1), else_=jobs.c.attempts)


def _count(connection: Connection, name: str, amount: float) -> None:
    if amount:
        add_to(connection, totals, {"name": name, "value": amount}, {"value": totals.c.value + amount})


def add_to(connection: Connection, table: Table, row: dict[str, object], changes: dict[str, object]) -> None:
    """Insert a row, or change the row with its key. ON CONFLICT of each database has its own import."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    statement = insert(table).values(**row)
    key = [column.name for column in table.primary_key]
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changes))
