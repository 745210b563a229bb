"""Roles, the tenant helper, accounts, organizations, credentials and the audit log."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

_HERE = Path(__file__)


def upgrade() -> None:
    """Run the SQL beside this file."""
    _run(_HERE.with_suffix(".up.sql"))


def downgrade() -> None:
    """Run the SQL beside this file."""
    _run(_HERE.with_suffix(".down.sql"))


def _run(script: Path) -> None:
    # The driver's own cursor: a script holds many statements, and its `:` and `%` are not parameters.
    with op.get_bind().connection.cursor() as cursor:
        cursor.execute(script.read_text())
