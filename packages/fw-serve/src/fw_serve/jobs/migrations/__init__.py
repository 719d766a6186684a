"""Alembic migrations of the job store. `open_engine` runs them; to add one, write `versions/NNNN_name.py`, change
`tables.py` to match, and set `tables.REVISION`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from fw_serve.jobs.tables import REVISION, revisions


def upgrade(connection: Connection, found: str) -> None:
    """Upgrade the tables from revision `found` to `REVISION`, within the transaction of the connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    if not connection.dialect.has_table(connection, revisions.name):
        revisions.create(connection)
        connection.execute(revisions.insert().values(version_num=found))
    command.upgrade(config, REVISION)
