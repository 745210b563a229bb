"""Roles, the tenant helper, accounts, organizations, credentials and the audit log."""

from vespid.store.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "up")


def downgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "down")
