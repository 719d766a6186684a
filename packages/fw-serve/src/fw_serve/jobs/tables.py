"""The tables, and an engine for SQLite or PostgreSQL that is durable across power loss.

One set of statements serves both; see docs/adr/0007.
"""

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
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

SCHEMA_VERSION = 1
"""Raised whenever a table changes."""

BUSY_TIMEOUT_MS = 10_000
"""How long a SQLite writer waits for another."""

_ADVISORY_LOCK = 0x66775F73
"""Number under which PostgreSQL serializes admissions of this application."""

metadata = MetaData()

meta = Table(
    "fw_meta", metadata, Column("name", String(40), primary_key=True), Column("value", Integer, nullable=False)
)

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
    UniqueConstraint("owner", "idempotency_key", name="fw_jobs_idempotency"),
    Index("fw_jobs_status", "status", "seq"),
    Index("fw_jobs_owner", "owner", "seq"),
    Index("fw_jobs_admitted", "owner", "created_at"),
    sqlite_autoincrement=True,  # a number is never given twice, so cursors stay true after deletions
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
)


def open_engine(url: str) -> Engine:
    """Connect to sqlite:///FILE or postgresql+psycopg://..., making the tables if they are missing.

    Raises:
        ValueError: another kind of database, a missing driver, or tables of another version.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError(f"the database address is not an URL: {error}; write for example sqlite:///jobs.db") from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ValueError(f"jobs are kept in sqlite or postgresql, not in {backend!r}; see --database")
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(parsed, pool_pre_ping=backend == "postgresql", pool_size=8, max_overflow=32)
    except ModuleNotFoundError as error:
        raise ValueError(f"{backend} needs the package {error.name}: install fw-serve[postgres]") from error
    if backend == "sqlite":
        _prepare_sqlite(engine)
    _make_tables(engine)
    return engine


def serialize(connection: Connection) -> None:
    """Let one transaction at a time count and insert. SQLite's write transactions are serial already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _ADVISORY_LOCK})


def reader(engine: Engine) -> Connection:
    """A connection for one SELECT, which never waits for a writer."""
    return engine.connect().execution_options(fw_read=True)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _settings(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # the listener below begins transactions, not the driver
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "cache_size=-512",  # kB a connection; the operating system caches the file for all of them
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("fw_read"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_tables(engine: Engine) -> None:
    with engine.begin() as connection:
        serialize(connection)
        if not inspect(connection).has_table(meta.name):
            metadata.create_all(connection)
            connection.execute(meta.insert().values(name="schema", value=SCHEMA_VERSION))
        found = connection.execute(select(meta.c.value).where(meta.c.name == "schema")).scalar()
    if found != SCHEMA_VERSION:
        raise ValueError(
            f"the database has tables of version {found}, this program wants {SCHEMA_VERSION}; "
            "use the version of fantasy-world that wrote them, or another database"
        )


Clock = Callable[[], float]
"""Seconds since 1970; tests give their own."""
