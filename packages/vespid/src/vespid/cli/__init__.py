"""`vespid …`: one module per command or group of commands, each with `register(app)`.

Modules of commands import little: what a command needs it imports when it runs, so that `--help` is quick.
"""

import importlib
import os

import typer

from vespid.cli.exit_codes import MEANINGS

# In the order of `vespid --help`.
COMMANDS = (
    "account",
    "org",
    "member",
    "api_key",
    "agent",
    "workflow",
    "run",
    "session",
    "secret",
    "approval",
    "usage",
    "audit",
    "settings",
    "doctor",
    "completion",
    "up",
    "demo",
    "api",
    "gateway",
    "worker",
    "engine_runner",
    "migrate",
)


def create_app() -> typer.Typer:
    """The command line with every command of this package."""
    app = typer.Typer(
        name="vespid",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        epilog=MEANINGS,
    )
    app.callback()(_describe)
    for module in COMMANDS:
        importlib.import_module(f"{__name__}.{module}").register(app)
    return app


def _describe() -> None:
    """Vespid: workflows and agents on machines of your own. Sign in with `vespid login`, or run a server."""


def main() -> None:
    """The console script."""
    if "_VESPID_COMPLETE" in os.environ:
        # The shell asks at a Tab; we add no option that installs its script, so this is not done for us.
        from typer._completion_classes import completion_init

        completion_init()
    create_app()()
