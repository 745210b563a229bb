"""`vespid up`: everything in one process, data kept."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vespid.cli.groups import PROCESSES, add


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "up", up, "vespid up --data ./vespid-data", rich_help_panel=PROCESSES)


def up(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", envvar="VESPID_DATA", help="Data folder; ~/.vespid/server, or /var/lib/vespid/server for root."
        ),
    ] = None,
) -> None:
    """Everything in one process, with embedded PostgreSQL and Valkey unless DATABASE_URL and REDIS_URL are set."""
    from vespid.cli.process import run_service
    from vespid.local.folder import default_folder
    from vespid.local.stack import LocalStack
    from vespid.local.welcome import Welcome
    from vespid.observe.log import set_up_logging
    from vespid.service import Service, Stack

    set_up_logging(os.environ.get("VESPID_LOG_LEVEL") or "warning")

    def make() -> Service:
        stack = LocalStack(data or default_folder(), os.environ, tell=typer.echo)
        return Stack([stack, Welcome(stack, typer.echo)])

    run_service("up", make)
