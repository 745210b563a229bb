"""Executors, runs, executions, their events, and every function that changes them."""

from vespid.store.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "up")


def downgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "down")
