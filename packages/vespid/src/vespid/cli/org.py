"""`vespid org`: the organizations of the caller, and which of them commands are about."""

from typing import Annotated

import msgspec
import typer

from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.names import pick
from vespid.cli.problem import wrong_usage


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "org", "Organizations: yours, a new one, the one to work in.")
    add(commands, "ls", ls, "vespid org ls")
    add(commands, "use", use, "vespid org use acme")
    add(commands, "create", create, 'vespid org create acme --name "Acme Inc."')


@command
async def ls(caller: Caller) -> None:
    """Your organizations; the star is the one that commands are about."""
    me = await caller.client.me()
    if caller.out.as_json:
        caller.out.document({"orgs": [org.to_json() for org in me.orgs], "defaultOrgId": me.default_org_id})
        return
    current = await caller.client.org_id()
    caller.out.table(
        ("", "slug", "name", "role", "id"),
        [
            (("*", "green") if org.id == current else " ", org.slug, org.name, org.role_key, (org.id, "dim"))
            for org in me.orgs
        ],
        empty="You are in no organization. Make one: vespid org create",
    )


@command
async def use(caller: Caller, org: Annotated[str, typer.Argument(help="Its slug, name or id.")]) -> None:
    """Work in this organization from now on (this profile)."""
    me = await caller.client.me()
    found = pick(me.orgs, org, "org", id_of=lambda one: one.id, name_of=lambda one: one.slug)
    _keep(caller, found.id)
    if caller.out.as_json:
        caller.out.document(found.to_json())
    caller.out.note(f"Commands are about {found.name} ({found.slug}) now; you are {found.role_key} there")


@command
async def create(
    caller: Caller,
    slug: Annotated[str, typer.Argument(help="Its short name: 3 to 50 of a-z, 0-9 and -.")],
    name: Annotated[str | None, typer.Option("--name", help="Its name; the slug where it is missing.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Do not go on to work in it.")] = False,
) -> None:
    """Make an organization, with you as its owner, and work in it from now on."""
    made = await caller.client.orgs.create(name or slug, slug)
    if not stay:
        _keep(caller, made.organization.id)
    if caller.out.as_json:
        caller.out.document(made.to_json())
    caller.out.note(
        f"Made {made.organization.name} ({made.organization.id})" + ("" if stay else "; commands are about it now")
    )


def _keep(caller: Caller, org_id: str) -> None:
    if caller.choice.profile.api_key is not None:
        raise wrong_usage("an API key belongs to one organization", "Sign in as a person: vespid login")
    with caller.profiles.locked() as config:
        stored = config.profiles[caller.choice.name]
        profiles = {**config.profiles, caller.choice.name: msgspec.structs.replace(stored, org_id=org_id)}
        caller.profiles.replace(msgspec.structs.replace(config, profiles=profiles))
