"""`vespid agent`: the machines that work for the organization."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vespid.cli import exit_codes, moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.names import pick
from vespid.cli.output import Cell, status
from vespid.cli.problem import Problem

if TYPE_CHECKING:
    from vespid_client.models import Agent

# How often it is looked whether a new agent has come.
LOOK_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "agent", "Agents: the machines that work for the organization.")
    add(commands, "ls", ls, "vespid agent ls")
    add(commands, "pair", pair, "vespid agent pair --platform linux-x64 --wait")
    add(commands, "tag", tag, "vespid agent tag box-1 west group:beta")
    add(commands, "cordon", cordon, "vespid agent cordon box-1")
    add(commands, "uncordon", uncordon, "vespid agent uncordon box-1")
    add(commands, "revoke", revoke, "vespid agent revoke box-1 --yes")
    add(commands, "rotate", rotate, "vespid agent rotate box-1")


def _complete(incomplete: str) -> list[str]:
    from vespid.cli.completion import names_of

    return names_of("agents", incomplete)


Which = Annotated[str, typer.Argument(help="The agent's name or id.", autocompletion=_complete)]


@command
async def ls(
    caller: Caller,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that were revoked too.")] = False,
) -> None:
    """The agents: how they are, what they do, when they were last heard of."""
    agents = await caller.client.agents.list().all()
    shown = [agent for agent in agents if everything or agent.status != "revoked"]
    if caller.out.as_json:
        told = [agent.to_json() for agent in shown]
        caller.out.document({"agents": told, "executors": told, "nextCursor": None})
        return
    caller.out.table(
        ("name", "status", "load", "version", "tags", "not working", "last seen", "id"),
        [_row(agent) for agent in shown],
        empty="There is no agent. Pair one: vespid agent pair",
        give=("tags", "not working"),
    )


def _row(agent: "Agent") -> Sequence[Cell]:
    state = "cordoned" if agent.cordoned and agent.status == "online" else agent.status
    broken = [each.id for each in agent.tool_problems or []]
    broken += [each.id for each in agent.engine_states or [] if each.problem]
    return (
        (agent.name, "bold"),
        status(state),
        f"{agent.in_flight}/{agent.max_in_flight}",
        agent.agent_version or "",
        ", ".join(agent.tags),
        (", ".join(broken), "yellow"),
        moments.ago(agent.last_seen_at) or "never",
        (agent.id, "dim"),
    )


@command
async def pair(
    caller: Caller,
    platform: Annotated[
        str | None,
        typer.Option("--platform", help="linux-x64, darwin-arm64 or windows-x64; all where it is missing."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What the machine is to be called.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the agent is online.")] = False,
    within: Annotated[int, typer.Option("--within", min=1, help="Seconds that --wait waits.")] = 900,
) -> None:
    """A pairing token, and the commands that turn a machine into an agent with it."""
    known = {agent.id for agent in await caller.client.agents.list().all()} if wait else set()
    made = await caller.client.agents.pairing_token()
    if caller.out.as_json:
        caller.out.document({"token": made.token, "expiresAt": made.expires_at})
    else:
        await _say_commands(caller, made.token, platform, name)
        caller.out.note(f"The token is good once, until {moments.stamp(made.expires_at)}")
    if not wait:
        return
    import asyncio

    caller.out.note("Waiting for the agent…")
    try:
        async with asyncio.timeout(within):
            agent = await _newly_online(caller, known)
    except TimeoutError:
        raise Problem(f"no new agent was online within {within} s", "Look at what the agent printed") from None
    if caller.out.as_json:
        caller.out.document(agent.to_json())
    caller.out.note(f"{agent.name} is online ({agent.id})")


async def _newly_online(caller: Caller, known: set[str]) -> "Agent":
    import asyncio

    while True:
        for agent in await caller.client.agents.list().all():
            if agent.id not in known and agent.status == "online":
                return agent
        await asyncio.sleep(LOOK_S)


async def _say_commands(caller: Caller, token: str, platform: str | None, name: str | None) -> None:
    from vespid_client import ApiError

    named = f' --name "{name}"' if name else ""
    connect = f'connect --pairing-token "{token}" --api-base "{caller.api_base}"{named}'
    out = caller.out
    try:
        # As it comes: newer servers say the commands themselves, with `<token>` where the token belongs.
        installer = await caller.client.call("GET", "/v1/meta/agent-installer")
    except ApiError as error:
        if error.code != "AGENT_INSTALLER_UNAVAILABLE":
            raise
        out.line(("# This installation offers no downloads: with Python 3.11 or later", "dim"))
        out.token("", "pip install vespid-agent")
        out.token("", f"vespid-agent {connect}")
        return
    known = {str(artifact["platformId"]): artifact for artifact in installer["artifacts"]}
    if platform is not None and platform not in known:
        raise Problem(f"there is no agent for {platform!r}", f"There is one for: {', '.join(known)}", exit_codes.USAGE)
    for platform_id, artifact in known.items():
        if platform not in (None, platform_id):
            continue
        out.line((f"# {platform_id}", "bold"))
        for line in _told_commands(artifact, token, named) or _own_commands(artifact, connect):
            out.token("", line)


def _told_commands(artifact: Mapping[str, Any], token: str, named: str) -> list[str]:
    lines = [str(line).replace("<token>", token) for line in artifact.get("commands", [])]
    return [*lines[:-1], lines[-1] + named] if lines else []


def _own_commands(artifact: Mapping[str, Any], connect: str) -> list[str]:
    file, url = artifact["fileName"], artifact["downloadUrl"]
    if artifact["archiveType"] == "zip":
        return [
            f'Invoke-WebRequest -Uri "{url}" -OutFile "{file}"',
            f'Expand-Archive -Path "{file}" -DestinationPath . -Force',
            f".\\vespid-agent.exe {connect}",
        ]
    return [
        f'curl -fsSL "{url}" -o "{file}"',
        f'tar -xzf "{file}"',
        "chmod +x ./vespid-agent",
        f"./vespid-agent {connect}",
    ]


@command
async def tag(
    caller: Caller,
    agent: Which,
    tags: Annotated[list[str] | None, typer.Argument(help="All tags that it is to have; none takes all away.")] = None,
) -> None:
    """Set the tags by which work is routed to an agent. Live within a second."""
    found = await _find(caller, agent)
    set_to = await caller.client.agents.set_tags(found.id, tags or [])
    if caller.out.as_json:
        caller.out.document({"ok": True, "agent": {"id": found.id, "tags": set_to}})
    caller.out.note(f"{found.name} has the tags: {', '.join(set_to) or 'none'}")


@command
async def cordon(caller: Caller, agent: Which) -> None:
    """Send it nothing new; what it has goes on."""
    found = await _find(caller, agent)
    await caller.client.agents.cordon(found.id)
    _done(caller, f"{found.name} is given nothing new; it has {found.in_flight} at work")


@command
async def uncordon(caller: Caller, agent: Which) -> None:
    """Let it have work again."""
    found = await _find(caller, agent)
    await caller.client.agents.uncordon(found.id)
    _done(caller, f"{found.name} is given work again")


@command
async def revoke(
    caller: Caller,
    agent: Which,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Shut an agent out for good. What it has at work is lost."""
    from vespid.cli.asking import confirm

    found = await _find(caller, agent)
    if not yes:
        confirm(f"Shut {found.name} ({found.id}) out for good?", "--yes")
    await caller.client.agents.revoke(found.id)
    _done(caller, f"{found.name} is shut out")


@command
async def rotate(caller: Caller, agent: Which) -> None:
    """Give an agent another token, shown this once; the old one works for ten more minutes."""
    found = await _find(caller, agent)
    made = await caller.client.agents.rotate_token(found.id)
    if caller.out.as_json:
        caller.out.document(made.to_json())
        return
    caller.out.token("", made.agent_token)
    caller.out.note(
        f"Within ten minutes put it into `executorToken` of ~/.vespid/agent.json on {found.name}; it is read anew"
    )


async def _find(caller: Caller, wanted: str) -> "Agent":
    agents = await caller.client.agents.list().all()
    # One that was revoked has left its name to others.
    named = [agent for agent in agents if agent.status != "revoked" or agent.id == wanted.lower()]
    return pick(
        named, wanted, "agent", id_of=lambda one: one.id, name_of=lambda one: one.name, told=lambda one: one.status
    )


def _done(caller: Caller, said: str) -> None:
    if caller.out.as_json:
        caller.out.document({"ok": True})
    caller.out.note(said)
