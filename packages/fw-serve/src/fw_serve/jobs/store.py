"""The job store: every change of a job's state, each one transaction, shared by all processes.

An attempt holds a lease: a token and a time. Only its holder may write to a running job; whoever lost it learns so from
`LeaseLostError` at its next report and stops. So cancelling, deleting and taking a job away from a dead worker are one
mechanism, and no job can be completed twice.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, case, func, select, update

from fw_serve.jobs.errors import (
    IdempotencyMismatchError,
    LeaseLostError,
    QueueFullError,
    RateLimitedError,
    UnknownCursorError,
)
from fw_serve.jobs.model import Job, NewJob, WorldRequest, job_of_row
from fw_serve.jobs.tables import Clock, jobs, open_engine, reader, serialize, totals

RATE_WINDOW_S = 60.0
"""Creations are counted over this time."""

WORKER_LOST = "worker_lost"
"""Error code of a job whose worker died in its last attempt."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """How many jobs may be accepted; None is without limit."""

    queue: int | None = None
    """Jobs of all owners that may wait."""
    own_queue: int | None = None
    """Jobs of this owner that may wait."""
    per_minute: int | None = None
    """Creations of this owner within 60 seconds."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list."""

    jobs: Sequence[Job]
    """In the order that was asked for."""
    has_more: bool
    """Whether there are more jobs."""


class JobStore:
    """Jobs in SQLite or PostgreSQL.

    Args:
        url: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME.
        clock: seconds since 1970. Replicas need clocks that agree to within a fraction of the lease.
        max_attempts: a job whose worker dies is begun again until it was begun this often.

    Raises:
        ValueError: see `open_engine`.
    """

    def __init__(self, url: str, *, clock: Clock = time.time, max_attempts: int = 2) -> None:
        self.engine = open_engine(url)
        self.clock = clock
        self.max_attempts = max_attempts

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def create(self, new: NewJob, admission: Admission) -> tuple[Job, bool]:
        """Put a job into the queue, if there is room; the count is exact however many ask at once.

        Returns:
            The job, and whether it is new: a known idempotency key gives the job that it made.

        Raises:
            IdempotencyMismatchError: the key was used for another request.
            RateLimitedError: the owner created too many within the last minute.
            QueueFullError: no place in the queue.
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
            self._admit(connection, new.owner, admission, now)
            values = {
                "id": new.id,
                "owner": new.owner,
                "status": "queued",
                "request": new.request.model_dump_json(),
                "created_at": now,
                "remixed_from": new.remixed_from,
                "idempotency_key": new.idempotency_key,
                "fingerprint": new.fingerprint,
            }
            connection.execute(_INSERT, values)
            row = connection.execute(_BY_ID, {"wanted": new.id}).one()
        return job_of_row(row), True

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """A job by its id; None if there is none, or if it is another owner's."""
        with reader(self.engine) as connection:
            if owner is None:
                row = connection.execute(_BY_ID, {"wanted": job_id}).first()
            else:
                row = connection.execute(_BY_ID_AND_OWNER, {"wanted": job_id, "asking": owner}).first()
        return None if row is None else job_of_row(row)

    def page(self, owner: str, *, after: str | None = None, limit: int = 20, newest_first: bool = True) -> Page:
        """A part of an owner's jobs.

        Args:
            owner: whose.
            after: id of the last job of the part before.
            limit: how many at most.
            newest_first: order of arrival, or its reverse.

        Raises:
            UnknownCursorError: `after` is no job of this owner.
        """
        wanted: list[ColumnElement[bool]] = [jobs.c.owner == owner, jobs.c.status != "deleted"]
        with reader(self.engine) as connection:
            if after is not None:
                cursor = select(jobs.c.seq).where(jobs.c.id == after, jobs.c.owner == owner)  # tombstones count
                seq = connection.execute(cursor).scalar()
                if seq is None:
                    raise UnknownCursorError(f"there is no video {after!r} to list after")
                wanted.append(jobs.c.seq < seq if newest_first else jobs.c.seq > seq)
            order = jobs.c.seq.desc() if newest_first else jobs.c.seq.asc()
            rows = connection.execute(select(jobs).where(*wanted).order_by(order).limit(limit + 1)).all()
        return Page(jobs=[job_of_row(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def counts(self) -> dict[str, int]:
        """Number of jobs in every state but `deleted`."""
        wanted = select(jobs.c.status, func.count()).where(jobs.c.status != "deleted").group_by(jobs.c.status)
        with reader(self.engine) as connection:
            found = {row[0]: row[1] for row in connection.execute(wanted)}
        return {status: found.get(status, 0) for status in ("queued", "in_progress", "completed", "failed")}

    def totals(self) -> dict[str, float]:
        """What was ever counted: `completed`, `failed.CODE`, `seconds` (of completed jobs), `requeued`."""
        with reader(self.engine) as connection:
            return {row.name: row.value for row in connection.execute(select(totals))}

    def claim(self, worker: str, lease_s: float) -> Job | None:
        """Take the oldest waiting job for `lease_s` seconds; None if none waits. Lost jobs are seen to first."""
        now = self.clock()
        self.reap()
        waiting = select(jobs.c.seq).where(jobs.c.status == "queued")
        oldest = waiting.order_by(jobs.c.seq).limit(1).with_for_update(skip_locked=True)
        with reader(self.engine) as connection:  # an idle worker asks often and writes nothing
            if connection.execute(waiting.limit(1)).first() is None:
                return None
        taken = (
            update(jobs)
            .where(jobs.c.seq == oldest.scalar_subquery(), jobs.c.status == "queued")
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
        """Say how far an attempt has come, and hold its lease for another `lease_s` seconds. `progress` never falls.

        Raises:
            LeaseLostError: stop, the job is no longer yours.
        """
        rising = case((jobs.c.progress > progress, jobs.c.progress), else_=progress)
        values = {"stage": stage, "step": step, "steps": steps, "progress": rising, "eta_seconds": eta_seconds}
        self._write(lease, lease_until=self.clock() + lease_s, **values)

    def heartbeat(self, lease: str, lease_s: float) -> None:
        """Hold the lease for another `lease_s` seconds. Raises LeaseLostError if it is not held any more."""
        self._write(lease, lease_until=self.clock() + lease_s)

    def complete(self, lease: str, result: str, *, keep_s: float | None) -> Job:
        """The results lie in folder `result`; the job is done. Raises LeaseLostError if it is no longer yours."""
        now = self.clock()
        expires = None if keep_s is None else now + keep_s
        return self._finish(
            lease, "completed", status="completed", result=result, progress=100, eta_seconds=0.0, expires_at=expires
        )

    def fail(self, lease: str, code: str, message: str, *, keep_s: float | None) -> Job:
        """The attempt failed and shall not be repeated. Raises LeaseLostError if it is no longer yours."""
        expires = None if keep_s is None else self.clock() + keep_s
        values = {"error_code": code, "error_message": message, "eta_seconds": None, "expires_at": expires}
        return self._finish(lease, f"failed.{code}", status="failed", **values)

    def give_back(self, lease: str) -> None:
        """Put a running job back to where it stood in the queue: its worker is being stopped. Not a failed attempt."""
        changed = {"status": "queued", "attempts": jobs.c.attempts - 1, **_NO_LEASE, **_NOTHING_DONE}
        self._write(lease, **changed)

    def release(self, worker: str) -> int:
        """End the leases of a worker that is known to be dead; returns how many it held."""
        ended = update(jobs).where(jobs.c.status == "in_progress", jobs.c.worker == worker).values(lease_until=0.0)
        with self.engine.begin() as connection:
            number = connection.execute(ended).rowcount
        if number:
            self.reap()
        return number

    def reap(self) -> int:
        """See to running jobs whose lease is over: queue them again, or fail them after the last attempt."""
        now = self.clock()
        lost = and_(jobs.c.status == "in_progress", jobs.c.lease_until < now)
        with reader(self.engine) as connection:
            if connection.execute(select(jobs.c.seq).where(lost).limit(1)).first() is None:
                return 0
        message = f"The worker died during this job, {self.max_attempts} times; the job itself may be fine."
        failed = (
            update(jobs)
            .where(lost, jobs.c.attempts >= self.max_attempts)
            .values(
                status="failed", error_code=WORKER_LOST, error_message=message, finished_at=now, eta_seconds=None,
                **_NO_LEASE,
            )
        )  # fmt: skip
        again = update(jobs).where(lost).values(status="queued", **_NO_LEASE, **_NOTHING_DONE)
        with self.engine.begin() as connection:
            ended = connection.execute(failed).rowcount
            queued = connection.execute(again).rowcount
            _count(connection, f"failed.{WORKER_LOST}", ended)
            _count(connection, "requeued", queued)
        return ended + queued

    def cancel(self, job_id: str, owner: str) -> Job | None:
        """Stop a job: it fails with code `cancelled`. A finished job stays as it is; None if there is none."""
        now = self.clock()
        running = and_(jobs.c.id == job_id, jobs.c.owner == owner, jobs.c.status.in_(("queued", "in_progress")))
        message = "The job was cancelled."
        values = {"error_code": "cancelled", "error_message": message, "finished_at": now, "eta_seconds": None}
        with self.engine.begin() as connection:
            stopped = connection.execute(update(jobs).where(running).values(status="failed", **values, **_NO_LEASE))
            _count(connection, "failed.cancelled", stopped.rowcount)
        return self.get(job_id, owner)

    def delete(self, job_id: str, owner: str | None = None) -> bool:
        """Forget a job, stopping it if it runs; the caller removes its files. False if there is none."""
        wanted = [jobs.c.id == job_id, jobs.c.status != "deleted"]
        if owner is not None:
            wanted.append(jobs.c.owner == owner)
        gone = {"status": "deleted", "finished_at": self.clock(), "error_message": None, "result": None, **_NO_LEASE}
        with self.engine.begin() as connection:
            row = connection.execute(select(jobs.c.request).where(*wanted)).first()
            if row is None:
                return False
            blank = WorldRequest.model_validate_json(row.request).without_text().model_dump_json()
            deleted = connection.execute(update(jobs).where(*wanted).values(request=blank, **gone))
        return deleted.rowcount == 1

    def expired(self) -> list[str]:
        """Ids of the jobs whose time is over."""
        over = select(jobs.c.id).where(jobs.c.expires_at < self.clock(), jobs.c.status != "deleted")
        with reader(self.engine) as connection:
            return list(connection.execute(over).scalars())

    def purge(self, older_s: float) -> int:
        """Drop tombstones older than `older_s` seconds; their idempotency keys may be used again."""
        old = and_(jobs.c.status == "deleted", jobs.c.finished_at < self.clock() - older_s)
        with self.engine.begin() as connection:
            return connection.execute(jobs.delete().where(old)).rowcount

    def known(self) -> dict[str, str | None]:
        """Result folder by id of every job that is not deleted: what may lie in the storage."""
        with reader(self.engine) as connection:
            rows = connection.execute(select(jobs.c.id, jobs.c.result).where(jobs.c.status != "deleted"))
            return {row.id: row.result for row in rows}

    def leases(self) -> set[str]:
        """Tokens of the running attempts."""
        with reader(self.engine) as connection:
            held = select(jobs.c.lease).where(jobs.c.lease.is_not(None))
            return set(connection.execute(held).scalars())

    def _admit(self, connection: Connection, owner: str, admission: Admission, now: float) -> None:
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

    def _finish(self, lease: str, counted: str, **values: object) -> Job:
        now = self.clock()
        changed = update(jobs).where(_held(lease)).values(finished_at=now, **values, **_NO_LEASE).returning(jobs)
        with self.engine.begin() as connection:
            row = connection.execute(changed).first()
            if row is None:
                raise LeaseLostError(_LOST)
            _count(connection, counted, 1)
            if values["status"] == "completed":
                _count(connection, "seconds", now - row.started_at)
        return job_of_row(row)

    def _write(self, held: str, /, **values: object) -> None:
        with self.engine.begin() as connection:
            if connection.execute(update(jobs).where(_held(held)).values(**values)).rowcount != 1:
                raise LeaseLostError(_LOST)


# What is asked most, built once: building a statement takes longer than SQLite takes to answer it.
_WAITING = select(func.count()).select_from(jobs).where(jobs.c.status == "queued")
_OTHER = jobs.alias()
_AHEAD = select(func.count()).select_from(_OTHER).where(_OTHER.c.status == "queued", _OTHER.c.seq < jobs.c.seq)
_PLACE = case((jobs.c.status == "queued", 1 + _AHEAD.scalar_subquery()), else_=None).label("position")
_ANY_BY_ID = select(jobs, _PLACE).where(jobs.c.id == bindparam("wanted"))
_BY_ID = _ANY_BY_ID.where(jobs.c.status != "deleted")
_BY_ID_AND_OWNER = _BY_ID.where(jobs.c.owner == bindparam("asking"))
_INSERT = jobs.insert()

_LOST = "the job was cancelled, deleted, or given to another worker"
_NO_LEASE = {"lease": None, "lease_until": None}
_NOTHING_DONE = {"stage": None, "step": 0, "steps": 0, "progress": 0, "eta_seconds": None}


def _held(lease: str) -> ColumnElement[bool]:
    return and_(jobs.c.lease == lease, jobs.c.status == "in_progress")


def _count(connection: Connection, name: str, amount: float) -> None:
    if amount:
        add_to(connection, totals, {"name": name, "value": amount}, {"value": totals.c.value + amount})


def add_to(connection: Connection, table: Table, row: dict[str, object], changes: dict[str, object]) -> None:
    """Insert a row, or change the one that has its key. Both databases know ON CONFLICT, each under its own import."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    statement = insert(table).values(**row)
    key = [column.name for column in table.primary_key]
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changes))
