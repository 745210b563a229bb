"""`vespid completion`: the shell's script, and names that it asks us for at every Tab.

Names come from the API where it answers within a second; where it does not, the shell completes nothing, and silently.
"""

from typing import Annotated, Literal

import typer

from vespid.cli.groups import OPERATOR, add

WITHIN_S = 1.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "completion", completion, 'eval "$(vespid completion bash)"', rich_help_panel=OPERATOR)


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Whose script.")]) -> None:
    """Print the script that completes commands, options and names. Put it into the shell's start file."""
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="vespid", complete_var="_VESPID_COMPLETE", shell=shell))


def names_of(kind: Literal["agents", "workflows", "sessions"], incomplete: str) -> list[str]:
    """Names that begin so, of the organization of the current profile."""
    import asyncio
    import os

    from vespid.cli.plain import plain
    from vespid.cli.problem import Problem
    from vespid.cli.profiles import ProfileFile, choose
    from vespid.cli.sign_in import client_of
    from vespid_client import VespidError

    async def ask() -> set[str]:
        file = ProfileFile.of(os.environ, lambda _warning: None)
        async with asyncio.timeout(WITHIN_S), client_of(file, choose(file.read(), os.environ, None)) as client:
            if kind == "agents":
                return {
                    agent.name for agent in (await client.agents.list().page(200)).items if agent.status != "revoked"
                }
            if kind == "workflows":
                return {workflow.name for workflow in (await client.workflows.list().page(200)).items}
            return {session.title or session.id for session in (await client.sessions.list().page(200)).items}

    try:
        found = asyncio.run(ask())
    except (Problem, VespidError, TimeoutError):
        return []
    return sorted(name for name in found if name.startswith(incomplete) and plain(name) == name)
