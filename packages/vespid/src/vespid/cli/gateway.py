"""`vespid gateway`: the gateway alone, in the role that GATEWAY_ROLE names."""

import typer

from vespid.cli.groups import PROCESSES, add


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "gateway", gateway, "vespid gateway", rich_help_panel=PROCESSES)


def gateway() -> None:
    """The gateway: agents' sockets and dispatch on GATEWAY_PORT (3002)."""
    from vespid.cli.process import read_settings, run_service
    from vespid.gateway.service import GatewayService
    from vespid.settings import GatewaySettings

    settings = read_settings(GatewaySettings)
    run_service("gateway", lambda: GatewayService(settings))
