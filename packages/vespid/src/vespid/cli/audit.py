"""`vespid audit`: who did what."""

import typer

from vespid.cli import moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import OPERATOR, add
from vespid.cli.lists import Cursor, Limit, document, say_more, some
from vespid.cli.run_story import short_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "audit", audit, "vespid audit --limit 100 --json", rich_help_panel=OPERATOR)


@command
async def audit(caller: Caller, limit: Limit = 30, cursor: Cursor = None) -> None:
    """What was done in the organization, the newest first. For owners and admins."""
    page = await some(caller.client.audit.list(), limit, cursor)
    if caller.out.as_json:
        document(caller.out, "entries", page)
        return
    people = {member.user_id: member.email async for member in caller.client.members.list()}
    caller.out.table(
        ("when", "who", "action", "what", "details", "from"),
        [
            (
                moments.stamp(entry.created_at),
                _who(people, entry.actor.user_id, entry.actor.api_key_id),
                entry.action,
                f"{entry.object_type} {entry.object_id}",
                short_json(entry.details) if entry.details else "",
                entry.ip or "",
            )
            for entry in page.items
        ],
        empty="Nothing was done yet.",
        give=("who", "what", "details"),
    )
    say_more(caller.out, page)


def _who(people: dict[str, str], user_id: str | None, api_key_id: str | None) -> str:
    if user_id is None:
        return "the system"
    person = people.get(user_id, user_id)
    return f"{person} (API key)" if api_key_id is not None else person
