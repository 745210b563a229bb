"""How commands stand in `--help`: each with an example, the operator's apart from the server's processes."""

from collections.abc import Callable
from typing import Any

import typer

OPERATOR = "For operators and users"
PROCESSES = "The server's processes"


def group(app: typer.Typer, name: str, about: str) -> typer.Typer:
    """A group of the operator's commands."""
    made = typer.Typer(no_args_is_help=True, help=about)
    app.add_typer(made, name=name, rich_help_panel=OPERATOR)
    return made


def add(app: typer.Typer, name: str, work: Callable[..., Any], example: str, **options: Any) -> None:
    """A command with its example."""
    app.command(name, epilog=f"Example: {example}", **options)(work)
