"""Pairing tokens, and the credentials of managed executors."""

from vespid.store.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "up")


def downgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "down")
