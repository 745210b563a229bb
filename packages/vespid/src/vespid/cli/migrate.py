"""`vespid migrate`: bring the database's schema to a revision."""

import os
from typing import Annotated

import typer

from vespid.cli.groups import PROCESSES, add


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "migrate", migrate, "vespid migrate --to head", rich_help_panel=PROCESSES)


def migrate(
    to: Annotated[str, typer.Option("--to", help="A revision, `head` (the newest) or `base` (nothing left).")] = "head",
) -> None:
    """Bring the database of DATABASE_URL to a revision, up or down. Its login must own the schema."""
    from vespid.cli.process import EXIT_USAGE, fail
    from vespid.observe.log import set_up_logging
    from vespid.store.migrate import MigrationFailed, migrate_blocking
    from vespid.store.pool import DatabaseUnavailable

    set_up_logging()
    url = os.environ.get("DATABASE_URL", "").strip()
    if not url:
        fail("DATABASE_URL is not set (PostgreSQL 15 or later, `postgresql://…`)", EXIT_USAGE)
    try:
        revision = migrate_blocking(url, to)
    except (DatabaseUnavailable, MigrationFailed) as error:
        fail(f"migrate: {error}")
    typer.echo(f"The database is at {revision}.")
