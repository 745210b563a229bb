"""`vespid secret`: credentials that connectors and models are given, and the key that seals them."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vespid.cli import moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.names import pick
from vespid.cli.problem import missing, wrong_usage

if TYPE_CHECKING:
    from vespid_client.models import Secret

Name = Annotated[str, typer.Argument(help="`<connector>/<name>`, or its name or id where that is enough.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "secret", "Secrets, and the key that seals them.")
    add(commands, "ls", ls, "vespid secret ls")
    add(commands, "set", set_, "vespid secret set openai/main < key.txt")
    add(commands, "delete", delete, "vespid secret delete openai/main")
    add(commands, "rotate-kek", rotate_kek, "vespid secret rotate-kek")


@command
async def ls(caller: Caller) -> None:
    """The secrets of the organization, without their values."""
    secrets = await caller.client.secrets.list().all()
    if caller.out.as_json:
        caller.out.document({"secrets": [each.to_json() for each in secrets], "nextCursor": None})
        return
    caller.out.table(
        ("connector", "name", "changed", "id"),
        [(each.connector_id, (each.name, "bold"), moments.ago(each.updated_at), (each.id, "dim")) for each in secrets],
        empty="There is no secret. vespid secret set keeps one",
    )


@command
async def set_(
    caller: Caller,
    name: Annotated[str, typer.Argument(help="`<connector>/<name>`; the connector is `openai`, `http`, …")],
) -> None:
    """Keep a value under a name: a new one, or in the place of the old one. The value is read from stdin."""
    connector_id, separator, short = name.partition("/")
    if not separator or not connector_id or not short:
        raise wrong_usage(f"{name!r} names no connector", "It looks like openai/main")
    value = _value_of_stdin()
    secrets = await caller.client.secrets.list().all()
    there = next((each for each in secrets if (each.connector_id, each.name) == (connector_id, short)), None)
    if there is None:
        kept, done = await caller.client.secrets.create(connector_id, short, value), "kept"
    else:
        kept, done = await caller.client.secrets.replace(there.id, value), "replaced"
    if caller.out.as_json:
        caller.out.document({"secret": kept.to_json()})
    else:
        caller.out.line((_named(kept), "bold"), f"  {done}  ({kept.id})")


@command
async def delete(
    caller: Caller,
    secret: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget a secret; nodes that name it fail from now on."""
    from vespid.cli.asking import confirm

    found = await _find(caller, secret)
    if not yes:
        confirm(f"Forget {_named(found)} ({found.id})?", "--yes")
    await caller.client.secrets.delete(found.id)
    if caller.out.as_json:
        caller.out.document({"ok": True})
    caller.out.note(f"{_named(found)} is forgotten")


async def _find(caller: Caller, wanted: str) -> "Secret":
    secrets = await caller.client.secrets.list().all()
    if "/" in wanted:
        found = next((each for each in secrets if _named(each) == wanted), None)
        if found is None:
            raise missing(f"There is no secret {wanted!r}", "vespid secret ls shows what there is")
        return found
    return pick(secrets, wanted, "secret", id_of=lambda one: one.id, name_of=lambda one: one.name, told=_named)


def _named(secret: "Secret") -> str:
    return f"{secret.connector_id}/{secret.name}"


def _value_of_stdin() -> str:
    """The value, without the line end that a file or an echo leaves. Raises Problem."""
    if sys.stdin.isatty():
        import getpass

        value = getpass.getpass("Value: ", stream=sys.stderr)
    else:
        value = sys.stdin.read()
        value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise wrong_usage("there is no value on stdin", "It looks like: vespid secret set openai/main < key.txt")
    return value


def rotate_kek() -> None:
    """Wrap the data key of every secret under SECRETS_KEK_ID again; the values stay as they lie.

    Every key that secrets are under now must be in SECRETS_KEK_PREVIOUS. May be stopped and begun again.
    """
    from vespid.cli.process import EXIT_USAGE, fail, run
    from vespid.control.kek_rotation import Rotation
    from vespid.control.kek_rotation import rotate_kek as rotate
    from vespid.observe.log import set_up_logging
    from vespid.security.envelope import Keyring, KeyringInvalid
    from vespid.service import running
    from vespid.store.pool import Database

    set_up_logging()
    url = os.environ.get("DATABASE_URL", "").strip()
    if not url:
        fail("DATABASE_URL is not set (PostgreSQL 15 or later, `postgresql://…`)", EXIT_USAGE)
    names = ("SECRETS_KEK_ID", "SECRETS_KEK_BASE64", "SECRETS_KEK_PREVIOUS")
    try:
        keyring = Keyring.parse(*(os.environ.get(name, "").strip() for name in names))
    except KeyringInvalid as invalid:
        fail(f"secret rotate-kek: {invalid}", EXIT_USAGE)

    async def main() -> Rotation:
        database = Database(url, min_size=1, max_size=1, application_name="vespid-rotate-kek")
        async with running(database):
            return await rotate(
                database, keyring, progress=lambda done: typer.echo(f"{done} secrets re-wrapped", err=True)
            )

    rotation = run("secret rotate-kek", main)
    typer.echo(f"{rotation.rewrapped} secrets are newly under {keyring.active}.")
    if rotation.is_complete:
        return
    for kek_id, count in sorted(rotation.unknown_keks.items()):
        typer.echo(f"{count} secrets are under {kek_id}: add it to SECRETS_KEK_PREVIOUS and run this again.", err=True)
    for secret_id in rotation.tampered:
        typer.echo(f"The secret {secret_id} does not open with its key; replace its value.", err=True)
    fail("not every secret is under the active key")
