"""How the commands speak to people: results to stdout, problems to stderr with cause and mend."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

from vespid_agent.exit_code import ExitCode

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def warn(warning: str) -> None:
    err.print(f"[yellow]{plain(warning)}[/yellow]")


def fail(code: ExitCode, message: str) -> NoReturn:
    err.print(f"[red]vespid-agent:[/red] {plain(message)}")
    raise typer.Exit(code)


def plain(text: object) -> str:
    """Text from outside, so that square brackets in it are not taken for colours."""
    return str(text).replace("[", "\\[")
