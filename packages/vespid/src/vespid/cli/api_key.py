"""`vespid api-key`: credentials of programs."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import typer

from vespid.cli import moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.names import pick


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "api-key", "API keys: credentials of scripts and CI.")
    add(commands, "ls", ls, "vespid api-key ls")
    add(commands, "create", create, "vespid api-key create ci --role member --days 90")
    add(commands, "delete", delete, "vespid api-key delete ci")


@command
async def ls(caller: Caller) -> None:
    """The keys that are not revoked. Their values were shown once."""
    keys = await caller.client.api_keys.list().all()
    if caller.out.as_json:
        caller.out.document({"apiKeys": [key.to_json() for key in keys], "nextCursor": None})
        return
    caller.out.table(
        ("name", "role", "expires", "last used", "id"),
        [
            (key.name, key.role, moments.ago(key.expires_at) or "never", moments.ago(key.last_used_at), (key.id, "dim"))
            for key in keys
        ],
        empty="There is no key. vespid api-key create makes one",
    )


@command
async def create(
    caller: Caller,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    role: Annotated[Literal["owner", "admin", "member"], typer.Option("--role", help="What it may do.")] = "member",
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=3660, help="How long it lives; until revoked where missing.")
    ] = None,
) -> None:
    """Make a key. Its value is shown this once, on stdout and nothing else with it."""
    expires_at = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat()
    made = await caller.client.api_keys.create(name, role, expires_at=expires_at)
    if caller.out.as_json:
        caller.out.document(made.to_json())
        return
    caller.out.token("", made.value)
    caller.out.note("This is shown once. Use it as VESPID_API_KEY, or with: vespid login --api-key-stdin")


@command
async def delete(caller: Caller, key: Annotated[str, typer.Argument(help="Its name or id.")]) -> None:
    """Revoke a key. It stops at once, everywhere."""
    keys = await caller.client.api_keys.list().all()
    found = pick(
        keys, key, "api key", id_of=lambda one: one.id, name_of=lambda one: one.name, told=lambda one: one.role
    )
    await caller.client.api_keys.revoke(found.id)
    if caller.out.as_json:
        caller.out.document({"ok": True})
    caller.out.note(f"The key {found.name} is worth nothing any more")
