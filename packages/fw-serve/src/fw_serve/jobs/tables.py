"""Tables of the job store, for SQLite and PostgreSQL; see docs/adr/0007. `database.open_engine` creates them."""

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

REVISION = "0002"
"""Alembic revision of the tables below; the last file of `migrations/versions`."""

_ADVISORY_LOCK = 0x66775F73
"""Number under which PostgreSQL serializes admissions of this application."""

metadata = MetaData()

revisions = Table("fw_revision", metadata, Column("version_num", String(32), primary_key=True))
"""Alembic's version table."""

jobs = Table(
    "fw_jobs",
    metadata,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("owner", String(40), nullable=False),
    Column("status", String(12), nullable=False),
    Column("request", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("started_at", Float(53)),
    Column("finished_at", Float(53)),
    Column("expires_at", Float(53)),
    Column("attempts", Integer, nullable=False, default=0),
    Column("lease", String(40)),
    Column("lease_until", Float(53)),
    Column("worker", String(80)),
    Column("stage", String(12)),
    Column("step", Integer, nullable=False, default=0),
    Column("steps", Integer, nullable=False, default=0),
    Column("progress", Integer, nullable=False, default=0),
    Column("eta_seconds", Float(53)),
    Column("error_code", String(40)),
    Column("error_message", Text),
    Column("result", String(40)),
    Column("remixed_from", String(40)),
    Column("idempotency_key", String(255)),
    Column("fingerprint", String(64), nullable=False, default=""),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("model", String(120), nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("interruptions", Integer, nullable=False, server_default="0"),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Column("extended_from", String(40)),
    Column("share", String(64)),
    Column("webhook", Text),
    Column("webhook_at", Float(53)),
    Column("webhook_tries", Integer, nullable=False, server_default="0"),
    UniqueConstraint("owner", "idempotency_key", name="fw_jobs_idempotency"),
    Index("fw_jobs_status", "status", "seq"),
    Index("fw_jobs_owner", "owner", "seq"),
    Index("fw_jobs_admitted", "owner", "created_at"),
    Index("fw_jobs_share", "share"),
    Index("fw_jobs_webhook", "webhook_at"),
    sqlite_autoincrement=True,  # numbers are never reused, so cursors stay valid after deletions
)

workers = Table(
    "fw_workers",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("state", String(12), nullable=False),
    Column("seen_at", Float(53), nullable=False),
    Column("card", Text),
)

cards = Table(
    "fw_models", metadata, Column("name", String(120), primary_key=True), Column("card", Text, nullable=False)
)

totals = Table(
    "fw_totals",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("value", Float(53), nullable=False),
)

keys = Table(
    "fw_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(80), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("per_minute", Integer, nullable=False),
    Column("max_queued", Integer, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("revoked_at", Float(53)),
    Column("max_priority", Integer, nullable=False, server_default="0"),
    Column("disk_bytes", BigInteger),
)


def serialize(connection: Connection) -> None:
    """Serialize transactions that count and insert. SQLite's write transactions are serial already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _ADVISORY_LOCK})


def reader(engine: Engine) -> Connection:
    """A connection for one SELECT, which never waits for a writer."""
    return engine.connect().execution_options(fw_read=True)


Clock = Callable[[], float]
"""Returns seconds since 1970."""
