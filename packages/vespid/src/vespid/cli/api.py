"""`vespid api`: the control plane alone."""

import typer

from vespid.cli.groups import PROCESSES, add


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "api", api, "vespid api", rich_help_panel=PROCESSES)


def api() -> None:
    """The control plane: HTTP API and pages on API_PORT (3001)."""
    from vespid.cli.process import read_settings, run_service
    from vespid.control.app import create_service
    from vespid.settings import ApiSettings
    from vespid.web import pages

    settings = read_settings(ApiSettings)
    run_service("api", lambda: create_service(settings, pages=pages()))
