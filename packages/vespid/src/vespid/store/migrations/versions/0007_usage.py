"""What models took, recorded in the statement that commits the result that told it."""

from vespid.store.migrate import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "up")


def downgrade() -> None:
    """Run the SQL beside this file."""
    run_sql(__file__, "down")
