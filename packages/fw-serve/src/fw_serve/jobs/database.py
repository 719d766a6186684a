"""Connections to SQLite or PostgreSQL that are durable across power loss, with tables of the current revision."""

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from fw_serve.jobs.tables import REVISION, metadata, revisions, serialize

BUSY_TIMEOUT_MS = 10_000
"""Maximum milliseconds that a SQLite writer waits for another."""


def open_engine(url: str) -> Engine:
    """Connect to sqlite:///FILE or postgresql+psycopg://..., creating or upgrading the tables.

    Raises:
        ValueError: another kind of database, a missing driver, a database that does not answer, or tables of a newer
            version.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError(f"--database: not a URL: {error}; for example, sqlite:///jobs.db") from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ValueError(f"--database: use sqlite or postgresql, not {backend!r}")
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(parsed, pool_pre_ping=backend == "postgresql", pool_size=8, max_overflow=32)
    except ModuleNotFoundError as error:
        raise ValueError(f"{backend} needs the package {error.name}: install fw-serve[postgres]") from error
    if backend == "sqlite":
        _prepare_sqlite(engine)
    try:
        _make_tables(engine)
    except OperationalError as error:
        engine.dispose()
        reason = " ".join(str(error.orig).split())[:300]
        place = parsed.render_as_string(hide_password=True)
        raise ValueError(f"the database {place} is not available: {reason}; start it, or see --database") from None
    return engine


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
        inspector = inspect(connection)
        if inspector.has_table(revisions.name):
            found = connection.execute(select(revisions.c.version_num)).scalar()
        elif inspector.has_table("fw_meta"):  # tables of before the first migration
            found = "0001"
        else:
            metadata.create_all(connection)
            connection.execute(revisions.insert().values(version_num=REVISION))
            found = REVISION
        if found == REVISION:
            return
        if found is None or found > REVISION:
            raise ValueError(
                f"the database has tables of revision {found}, and this program knows up to {REVISION}; "
                "use a newer version of fantasy-world, or another database"
            )
        from fw_serve.jobs.migrations import upgrade  # Alembic is needed only now

        upgrade(connection, found)
