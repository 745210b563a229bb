"""`vespid secret rotate-kek`: bring every secret under the active key-encryption key."""

import os

import typer


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, help="Keys that seal secrets.")
    group.callback()(_describe)
    group.command("rotate-kek")(rotate_kek)
    app.add_typer(group, name="secret")


def _describe() -> None:
    """Keys that seal secrets."""


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
