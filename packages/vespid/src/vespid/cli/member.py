"""`vespid member`: who is in the organization, as what, and who is asked to join."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vespid.cli import moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.names import pick

if TYPE_CHECKING:
    from vespid_client.models import Member

Role = Literal["owner", "admin", "member"]
Who = Annotated[str, typer.Argument(help="The member's e-mail address or id.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "member", "Members of the organization, and invitations.")
    add(commands, "ls", ls, "vespid member ls")
    add(commands, "invite", invite, "vespid member invite ann@example.com --role admin")
    add(commands, "role", role, "vespid member role ann@example.com admin")
    add(commands, "remove", remove, "vespid member remove ann@example.com")


@command
async def ls(
    caller: Caller,
    invited: Annotated[bool, typer.Option("--invited", help="Invitations instead (owners and admins).")] = False,
) -> None:
    """Who is in the organization, and as what."""
    if invited:
        invitations = await caller.client.invitations.list().all()
        if caller.out.as_json:
            caller.out.document({"invitations": [each.to_json() for each in invitations], "nextCursor": None})
            return
        caller.out.table(
            ("email", "role", "status", "expires", "id"),
            [
                (each.email, each.role_key, each.status, moments.ago(each.expires_at), (each.id, "dim"))
                for each in invitations
            ],
            empty="Nobody was invited. vespid member invite does it",
        )
        return
    members = await caller.client.members.list().all()
    if caller.out.as_json:
        caller.out.document({"members": [each.to_json() for each in members], "nextCursor": None})
        return
    caller.out.table(
        ("email", "role", "name", "since", "id"),
        [
            (each.email, each.role_key, each.display_name or "", moments.stamp(each.created_at), (each.user_id, "dim"))
            for each in members
        ],
        empty="There is nobody here.",
    )


@command
async def invite(
    caller: Caller,
    email: Annotated[str, typer.Argument(help="Whom to ask.")],
    role: Annotated[Role, typer.Option("--role", help="What they become.")] = "member",
) -> None:
    """Invite somebody. The token is shown this once, and is good for three days, once, for that address."""
    made = await caller.client.invitations.create(email, role)
    if caller.out.as_json:
        caller.out.document({"invitation": made.to_json()})
        return
    caller.out.token("token  ", made.token)
    caller.out.token("page   ", f"{caller.api_base}/invitations/{made.token}")
    caller.out.note(f"Give one of them to {made.email}, who accepts on the page until {moments.stamp(made.expires_at)}")


@command
async def role(caller: Caller, who: Who, role: Annotated[Role, typer.Argument(help="What they become.")]) -> None:
    """Make a member an owner, an admin or a plain member."""
    member = await _find(caller, who)
    changed = await caller.client.members.set_role(member.user_id, role)
    if caller.out.as_json:
        caller.out.document({"member": changed.to_json()})
    caller.out.note(f"{changed.email} is {changed.role_key} now")


@command
async def remove(caller: Caller, who: Who) -> None:
    """Remove a member, whose API keys here end too."""
    member = await _find(caller, who)
    await caller.client.members.remove(member.user_id)
    if caller.out.as_json:
        caller.out.document({"ok": True})
    caller.out.note(f"{member.email} is no member any more")


async def _find(caller: Caller, who: str) -> "Member":
    members = await caller.client.members.list().all()
    return pick(members, who, "member", id_of=lambda one: one.user_id, name_of=lambda one: one.email)
