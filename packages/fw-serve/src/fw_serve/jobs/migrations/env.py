"""Alembic's environment: runs migrations on the connection of `upgrade`."""

from alembic import context

from fw_serve.jobs.tables import metadata, revisions

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=revisions.name,
    transactional_ddl=False,  # the caller holds the transaction
)
context.run_migrations()
