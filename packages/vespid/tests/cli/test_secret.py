"""`vespid secret rotate-kek`, as an operator runs it."""

import asyncio
import secrets
from base64 import b64encode
from uuid import UUID

import asyncpg
import pytest
from typer.testing import CliRunner

from vespid.cli import create_app
from vespid.security.envelope import Keyring, Sealed, SealedDek
from vespid_protocol.ids import new_id

ROTATE = ["secret", "rotate-kek"]


def kek() -> str:
    return b64encode(secrets.token_bytes(32)).decode()


async def seal(superuser: "asyncpg.Connection", keyring: Keyring, value: str) -> tuple[str, str]:
    """A secret in an organization of its own: the two ids."""
    organization_id, secret_id = new_id(), new_id()
    sealed = keyring.seal(organization_id, secret_id, value)
    slug = f"org-{secrets.token_hex(4)}"
    await superuser.execute(
        "insert into organizations (id, slug, name) values ($1, $2, 'An org')", UUID(organization_id), slug
    )
    await superuser.execute(
        """insert into secrets (id, organization_id, connector_id, name, kek_id, wrapped_dek, dek_nonce,
               value_ciphertext, value_nonce) values ($1, $2, 'github', 'token', $3, $4, $5, $6, $7)""",
        UUID(secret_id),
        UUID(organization_id),
        sealed.dek.kek_id,
        sealed.dek.wrapped_dek,
        sealed.dek.dek_nonce,
        sealed.value_ciphertext,
        sealed.value_nonce,
    )
    return organization_id, secret_id


async def opened(superuser: "asyncpg.Connection", keyring: Keyring, organization_id: str, secret_id: str) -> str:
    row = await superuser.fetchrow("select * from secrets where id = $1", UUID(secret_id))
    dek = SealedDek(row["kek_id"], row["wrapped_dek"], row["dek_nonce"])
    return keyring.open(organization_id, secret_id, Sealed(dek, row["value_ciphertext"], row["value_nonce"])).reveal()


async def invoke(env: dict[str, str]) -> tuple[int, str]:
    """The command in a thread: it has an event loop of its own."""
    blank = {"SECRETS_KEK_ID": "", "SECRETS_KEK_BASE64": "", "SECRETS_KEK_PREVIOUS": ""}
    result = await asyncio.to_thread(CliRunner().invoke, create_app(), ROTATE, env=blank | env)
    return result.exit_code, result.output


async def test_every_secret_comes_under_the_active_key(database_url: str, superuser: "asyncpg.Connection") -> None:
    old, new = kek(), kek()
    ids = [await seal(superuser, Keyring.parse("k1", old), f"value {at}") for at in range(3)]
    env = {
        "DATABASE_URL": database_url,
        "SECRETS_KEK_ID": "k2",
        "SECRETS_KEK_BASE64": new,
        "SECRETS_KEK_PREVIOUS": f"k1={old}",
    }
    assert await invoke(env) == (0, "3 secrets re-wrapped\n3 secrets are newly under k2.\n")
    only_new = Keyring.parse("k2", new)
    assert [await opened(superuser, only_new, *both) for both in ids] == ["value 0", "value 1", "value 2"]
    assert await invoke(env) == (0, "0 secrets are newly under k2.\n")


async def test_a_missing_key_is_named_and_the_rest_is_done(database_url: str, superuser: "asyncpg.Connection") -> None:
    old, lost, new = kek(), kek(), kek()
    await seal(superuser, Keyring.parse("k1", old), "one")
    stays = await seal(superuser, Keyring.parse("k0", lost), "two")
    status, output = await invoke(
        {
            "DATABASE_URL": database_url,
            "SECRETS_KEK_ID": "k2",
            "SECRETS_KEK_BASE64": new,
            "SECRETS_KEK_PREVIOUS": f"k1={old}",
        }
    )
    assert status == 1
    assert "1 secrets are newly under k2." in output
    assert "under k0: add it to SECRETS_KEK_PREVIOUS" in output
    assert await opened(superuser, Keyring.parse("k0", lost), *stays) == "two"


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://x"}, "SECRETS_KEK_ID"),
        (
            {"DATABASE_URL": "postgresql://x", "SECRETS_KEK_ID": "k", "SECRETS_KEK_BASE64": "short"},
            "SECRETS_KEK_BASE64",
        ),
    ],
)
async def test_what_is_not_set_is_named(env: dict[str, str], named: str) -> None:
    status, output = await invoke(env)
    assert status == 2
    assert named in output
