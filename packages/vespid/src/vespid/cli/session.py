"""`vespid session`: conversations with an agent that lives on one of the organization's machines."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vespid.cli import moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.lists import Cursor, Limit, document, say_more, some
from vespid.cli.names import pick
from vespid.cli.output import status

if TYPE_CHECKING:
    from vespid_client.models import Session

Scope = Literal["main", "per-peer", "per-channel-peer", "per-account-channel-peer"]


def _complete(incomplete: str) -> list[str]:
    from vespid.cli.completion import names_of

    return names_of("sessions", incomplete)


Which = Annotated[str, typer.Argument(help="The session's id or title.", autocompletion=_complete)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "session", "Sessions: conversations with an agent on a machine of yours.")
    add(commands, "new", new, "vespid session new --title Desk --scope per-peer --peer ann --engine vespid.loop.v1")
    add(commands, "chat", chat, "vespid session chat Desk")
    add(commands, "ls", ls, "vespid session ls")
    add(commands, "show", show, "vespid session show Desk --events")
    add(commands, "reset", reset, "vespid session reset Desk --forget")


@command
async def new(
    caller: Caller,
    title: Annotated[str | None, typer.Option("--title", help="What it is called.")] = None,
    scope: Annotated[Scope, typer.Option("--scope", help="Who shares it.")] = "main",
    peer: Annotated[str | None, typer.Option("--peer", help="Who is talked to.")] = None,
    channel: Annotated[str | None, typer.Option("--channel", help="Where.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="What answers; the organization's default.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of the engine.")] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="The id of the secret that pays for the model.")
    ] = None,
    instructions: Annotated[str | None, typer.Option("--instructions", help="Told to the agent beforehand.")] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Allow this tool; may be repeated.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only on agents with this tag.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only on this agent (name or id), no failover.")] = None,
) -> None:
    """Begin a session, or find the one that has the same key. Prints its id."""
    selector: dict[str, str] = {}
    if tag is not None:
        selector["tag"] = tag
    if agent is not None:
        agents = await caller.client.agents.list().all()
        found = pick(agents, agent, "agent", id_of=lambda one: one.id, name_of=lambda one: one.name)
        selector["executorId"] = found.id
    options: dict[str, Any] = {"title": title, "scope": scope, "peer": peer, "channel": channel}
    if engine is not None:
        auth = None if secret is None else {"secretId": secret}
        parts = {"id": engine, "model": model, "auth": auth}
        options["engine"] = {name: value for name, value in parts.items() if value is not None}
    if instructions is not None:
        options["prompt"] = {"instructions": instructions}
    if tool:
        options["tools"] = {"allow": tool}
    if selector:
        options["executorSelector"] = selector
    session = await caller.client.sessions.create(**options)
    if caller.out.as_json:
        caller.out.document({"session": session.to_json()})
        return
    caller.out.line(session.id)
    caller.out.note(f"{session.session_key} · vespid session chat {session.id}")


@command
async def chat(
    caller: Caller,
    session: Annotated[
        str | None, typer.Argument(help="Its id or title; the organization's main one.", autocompletion=_complete)
    ] = None,
) -> int:
    """Talk. Ctrl-C cancels the answer, Ctrl-D leaves. Lines of a pipe are said one after the other."""
    from vespid.cli.chat import talk

    if session is None:
        found = await caller.client.sessions.create()
    else:
        found = await _find(caller, session)
    return await talk(caller, found)


@command
async def ls(caller: Caller, limit: Limit = 20, cursor: Cursor = None) -> None:
    """Sessions, the newest first."""
    page = await some(caller.client.sessions.list(), limit, cursor)
    if caller.out.as_json:
        document(caller.out, "sessions", page)
        return
    caller.out.table(
        ("id", "title", "status", "engine", "scope", "last activity", "pinned to"),
        [
            (
                each.id,
                (each.title or "", "bold"),
                status(each.status),
                each.engine_id,
                each.scope,
                moments.ago(each.last_activity_at),
                (each.pinned_executor_id or "", "dim"),
            )
            for each in page.items
        ],
        empty="There is no session. vespid session new begins one",
        give=("title", "pinned to"),
    )
    say_more(caller.out, page)


@command
async def show(
    caller: Caller,
    session: Which,
    events: Annotated[bool, typer.Option("--events", "-e", help="What was said in it, too.")] = False,
) -> None:
    """A session: what it was made with, and where it lives."""
    from vespid.cli.session_story import SessionStory

    found = await _find(caller, session)
    history = await caller.client.sessions.events(found.id).all() if events else []
    if caller.out.as_json:
        told = {"session": found.to_json()}
        caller.out.document(told | {"events": [each.to_json() for each in history]} if events else told)
        return
    model = "/".join(part for part in (found.llm_provider, found.llm_model) if part)
    caller.out.fields(
        [
            ("session", (found.id, "bold")),
            ("title", found.title or ""),
            ("status", status(found.status)),
            ("key", found.session_key),
            ("engine", f"{found.engine_id} {model}".strip()),
            ("answered by", found.routed_agent_id or "main"),
            (
                "lives on",
                f"{found.pinned_executor_id} ({found.pinned_executor_pool})" if found.pinned_executor_id else "",
            ),
            ("tools", ", ".join(found.tools_allow)),
            ("begun", moments.stamp(found.created_at)),
            ("last activity", moments.ago(found.last_activity_at)),
        ]
    )
    story = SessionStory(caller.out)
    if history:
        caller.out.line("")
    for event in history:
        story.happened(event.event_type, event.payload)


@command
async def reset(
    caller: Caller,
    session: Which,
    forget: Annotated[bool, typer.Option("--forget", help="Forget what was said, too; memory stays.")] = False,
) -> None:
    """Cancel what runs and what waits, and let the agent begin anew."""
    found = await _find(caller, session)
    changed = await caller.client.sessions.reset(found.id, "clear_history" if forget else "keep_history")
    if caller.out.as_json:
        caller.out.document({"ok": True, "session": changed.to_json()})
    caller.out.note("It begins anew" + (", and has forgotten what was said" if forget else ""))


async def _find(caller: Caller, wanted: str) -> "Session":
    if len(wanted) == 36 and wanted.count("-") == 4:
        return await caller.client.sessions.get(wanted)
    sessions = await caller.client.sessions.list().all()
    return pick(
        sessions,
        wanted,
        "session",
        id_of=lambda one: one.id,
        name_of=lambda one: one.title or "",
        told=lambda one: one.session_key,
    )
