"""Priorities, models, disk usage, sharing, extension and webhooks of jobs; disk and priority limits of keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, and replace fw_meta by Alembic's table."""
    for column in (
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("model", sa.String(120), nullable=False, server_default=""),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("interruptions", sa.Integer, nullable=False, server_default="0"),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("extended_from", sa.String(40)),
        sa.Column("share", sa.String(64)),
        sa.Column("webhook", sa.Text),
        sa.Column("webhook_at", sa.Float(53)),
        sa.Column("webhook_tries", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("fw_jobs", column)
    op.create_index("fw_jobs_share", "fw_jobs", ["share"])
    op.create_index("fw_jobs_webhook", "fw_jobs", ["webhook_at"])
    op.add_column("fw_keys", sa.Column("max_priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("fw_keys", sa.Column("disk_bytes", sa.BigInteger))
    op.drop_table("fw_meta")
