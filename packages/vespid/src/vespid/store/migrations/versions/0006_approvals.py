"""What people are asked to allow, and what they decided."""

from vespid.store.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "up")


def downgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "down")
