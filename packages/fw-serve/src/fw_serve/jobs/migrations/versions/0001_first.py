"""The tables of before Alembic, whose version is in fw_meta. Newer databases never have this revision."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: `JobStore` of that version created these tables."""
