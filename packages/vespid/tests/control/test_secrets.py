"""Secrets over HTTP: written, replaced, deleted, resolved, and never shown."""

import secrets
from base64 import b64encode
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import msgspec
import pytest
from tests.support.control import Caller, Control, api_settings
from tests.support.dump import dump_database

from vespid.control.app import ControlPlane
from vespid.control.kek_rotation import rotate_kek
from vespid.security.envelope import Keyring, TamperedSecret, UnknownKek
from vespid.store.pool import Database
from vespid.store.secrets import SecretResolver
from vespid_protocol.ids import OrgId

CANARY = "canary-5f0c7e-do-not-keep-me"
NEW = {"connectorId": "github", "name": "token", "value": CANARY}


async def create(owner: Caller, **change: object) -> dict[str, str]:
    answer = await owner.post("/v1/orgs/{org}/secrets", NEW | change)
    assert answer.status == 201, answer.body
    secret: dict[str, str] = answer.body["secret"]
    return secret


def resolver(control: Control, database: Database) -> SecretResolver:
    return SecretResolver(database, control.plane.deps.keyring)


def kek() -> str:
    return b64encode(secrets.token_bytes(32)).decode()


async def test_a_secret_is_created_and_shown_without_its_value(owner: Caller) -> None:
    secret = await create(owner)
    assert set(secret) == {
        "id",
        "organizationId",
        "connectorId",
        "name",
        "createdByUserId",
        "updatedByUserId",
        "createdAt",
        "updatedAt",
    }
    assert (secret["organizationId"], secret["createdByUserId"]) == (owner.org_id, owner.user_id)
    assert secret["createdAt"].endswith("Z")
    assert len(secret["createdAt"]) == len("2026-01-02T03:04:05.678Z")
    listed = await owner.get("/v1/orgs/{org}/secrets")
    assert listed.body == {"secrets": [secret], "nextCursor": None}


async def test_a_name_is_taken_once_per_connector(owner: Caller) -> None:
    await create(owner)
    again = await owner.post("/v1/orgs/{org}/secrets", NEW)
    assert (again.status, again.code) == (409, "SECRET_ALREADY_EXISTS")
    await create(owner, connectorId="slack")


@pytest.mark.parametrize("body", [{"connectorId": "github", "name": "t"}, NEW | {"value": ""}])
async def test_a_secret_needs_a_value(owner: Caller, body: dict[str, str]) -> None:
    answer = await owner.post("/v1/orgs/{org}/secrets", body)
    assert (answer.status, answer.code) == (400, "SECRET_VALUE_REQUIRED")


async def test_replacing_needs_a_value(owner: Caller) -> None:
    secret = await create(owner)
    answer = await owner.put(f"/v1/orgs/{{org}}/secrets/{secret['id']}", {})
    assert (answer.status, answer.code) == (400, "SECRET_VALUE_REQUIRED")


async def test_fields_at_fault_are_named(owner: Caller) -> None:
    answer = await owner.post("/v1/orgs/{org}/secrets", {"connectorId": "", "value": 3})
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert set(answer.body["details"]["fieldErrors"]) == {"connectorId", "name", "value"}


async def test_a_replaced_value_is_what_is_resolved_from_then_on(
    control: Control, owner: Caller, database: Database
) -> None:
    secret = await create(owner)
    resolve = resolver(control, database).resolve
    first = await resolve(OrgId(str(owner.org_id)), secret["id"])
    assert first is not None
    assert first.reveal() == CANARY
    answer = await owner.put(f"/v1/orgs/{{org}}/secrets/{secret['id']}", {"value": "another"})
    assert answer.status == 200
    assert answer.body["secret"]["updatedAt"] >= secret["updatedAt"]
    second = await resolve(OrgId(str(owner.org_id)), secret["id"])
    assert second is not None
    assert second.reveal() == "another"


async def test_a_deleted_secret_is_gone(control: Control, owner: Caller, database: Database) -> None:
    secret = await create(owner)
    path = f"/v1/orgs/{{org}}/secrets/{secret['id']}"
    assert (await owner.delete(path)).body == {"ok": True}
    assert await resolver(control, database).resolve(OrgId(str(owner.org_id)), secret["id"]) is None
    for gone in (await owner.delete(path), await owner.put(path, {"value": "x"})):
        assert (gone.status, gone.code) == (404, "SECRET_NOT_FOUND")


async def test_secrets_are_for_owners_and_admins(control: Control, owner: Caller) -> None:
    secret = await create(owner)
    member = await control.join(owner, "member")
    answers = [
        await member.get("/v1/orgs/{org}/secrets"),
        await member.post("/v1/orgs/{org}/secrets", NEW),
        await member.put(f"/v1/orgs/{{org}}/secrets/{secret['id']}", {"value": "x"}),
        await member.delete(f"/v1/orgs/{{org}}/secrets/{secret['id']}"),
    ]
    assert [(answer.status, answer.code) for answer in answers] == [(403, "FORBIDDEN")] * 4
    admin = await control.join(owner, "admin")
    assert (await admin.get("/v1/orgs/{org}/secrets")).status == 200


@pytest.mark.promise("P5")
async def test_a_foreign_secret_is_not_there(
    control: Control, owner: Caller, stranger: Caller, database: Database
) -> None:
    secret = await create(owner)
    path = f"/v1/orgs/{{org}}/secrets/{secret['id']}"
    for answer in (await stranger.put(path, {"value": "stolen"}), await stranger.delete(path)):
        assert (answer.status, answer.code) == (404, "SECRET_NOT_FOUND")
    assert (await stranger.get("/v1/orgs/{org}/secrets")).body["secrets"] == []
    resolve = resolver(control, database).resolve
    assert await resolve(OrgId(str(stranger.org_id)), secret["id"]) is None
    mine = await resolve(OrgId(str(owner.org_id)), secret["id"])
    assert mine is not None
    assert mine.reveal() == CANARY


async def test_what_is_no_id_resolves_to_nothing(control: Control, owner: Caller, database: Database) -> None:
    resolve = resolver(control, database).resolve
    assert await resolve(OrgId(str(owner.org_id)), "not-an-id") is None
    assert await resolve(OrgId(str(owner.org_id)), str(uuid4())) is None


async def test_pages_of_secrets_do_not_repeat_and_end(owner: Caller) -> None:
    made = [(await create(owner, name=f"s{number}"))["id"] for number in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await owner.get(f"/v1/orgs/{{org}}/secrets?limit=2{cursor}")).body
        seen += [secret["id"] for secret in page["secrets"]]
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert seen == made[::-1]


async def test_a_repeated_creation_is_one_secret(owner: Caller) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await owner.post("/v1/orgs/{org}/secrets", NEW, headers=key)
    again = await owner.post("/v1/orgs/{org}/secrets", NEW, headers=key)
    assert (first.status, first.body) == (again.status, again.body)
    other = await owner.post("/v1/orgs/{org}/secrets", NEW | {"name": "other"}, headers=key)
    assert (other.status, other.code) == (409, "CONFLICT")


async def test_without_a_kek_secrets_are_not_configured(database_url: str, redis_url: str) -> None:
    settings = api_settings(database_url, redis_url)
    plane = ControlPlane(msgspec.structs.replace(settings, secrets_kek_id="", secrets_kek_base64=""))
    await plane.start()
    try:
        url = f"http://127.0.0.1:{plane.port}"
        async with aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as http:
            owner = await Control(plane, http).sign_up()
            answer = await owner.post("/v1/orgs/{org}/secrets", NEW)
            assert (answer.status, answer.code) == (503, "SECRETS_NOT_CONFIGURED")
            # What needs no key goes on.
            assert (await owner.get("/v1/orgs/{org}/secrets")).status == 200
    finally:
        await plane.stop()


async def test_rotation_brings_every_secret_under_the_new_kek(
    control: Control, owner: Caller, stranger: Caller, database: Database, superuser: "asyncpg.Connection"
) -> None:
    made = [(person, await create(person, name=f"s{at}")) for person in (owner, stranger) for at in range(3)]
    old = control.plane.deps.keyring
    assert old is not None
    previous = b64encode(old.keks[old.active]).decode()
    both = Keyring.parse("next", kek(), f"{old.active}={previous}")
    values = await superuser.fetch("select id, value_ciphertext from secrets order by id")
    rotation = await rotate_kek(database, both, batch=2)
    assert (rotation.rewrapped, rotation.is_complete) == (6, True)
    assert await superuser.fetchval("select array_agg(distinct kek_id) from secrets") == ["next"]
    # Data keys only: the values lie as they lay.
    assert await superuser.fetch("select id, value_ciphertext from secrets order by id") == values
    only_new = SecretResolver(database, Keyring("next", {"next": both.keks["next"]}))
    for person, secret in made:
        value = await only_new.resolve(OrgId(str(person.org_id)), secret["id"])
        assert value is not None
        assert value.reveal() == CANARY
    assert (await rotate_kek(database, both)).rewrapped == 0


async def test_rotation_leaves_what_it_cannot_open_and_says_so(
    control: Control, owner: Caller, database: Database, superuser: "asyncpg.Connection"
) -> None:
    secret = await create(owner)
    rotation = await rotate_kek(database, Keyring.parse("next", kek()))
    assert (rotation.rewrapped, rotation.unknown_keks, rotation.is_complete) == (0, {"test": 1}, False)
    value = await resolver(control, database).resolve(OrgId(str(owner.org_id)), secret["id"])
    assert value is not None
    assert value.reveal() == CANARY
    with pytest.raises(UnknownKek):
        await SecretResolver(database, Keyring.parse("next", kek())).resolve(OrgId(str(owner.org_id)), secret["id"])


@pytest.mark.promise("P5")
async def test_a_row_copied_into_another_organization_does_not_open(
    control: Control, owner: Caller, stranger: Caller, database: Database, superuser: "asyncpg.Connection"
) -> None:
    secret, theirs = await create(owner), await create(stranger, value="theirs")
    await superuser.execute(
        """update secrets t set kek_id = s.kek_id, wrapped_dek = s.wrapped_dek, dek_nonce = s.dek_nonce,
           value_ciphertext = s.value_ciphertext, value_nonce = s.value_nonce from secrets s
           where s.id = $1 and t.id = $2""",
        UUID(secret["id"]),
        UUID(theirs["id"]),
    )
    with pytest.raises(TamperedSecret):
        await resolver(control, database).resolve(OrgId(str(stranger.org_id)), theirs["id"])


async def test_every_change_is_told_in_the_audit_log(owner: Caller) -> None:
    secret = await create(owner)
    path = f"/v1/orgs/{{org}}/secrets/{secret['id']}"
    await owner.put(path, {"value": "another"})
    await owner.delete(path)
    entries = (await owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    mine = [entry for entry in entries if entry["objectId"] == secret["id"]]
    assert [entry["action"] for entry in mine] == ["secret.deleted", "secret.replaced", "secret.created"]
    assert mine[0]["details"] == {"connectorId": "github", "name": "token"}


@pytest.mark.promise("P7")
async def test_a_value_is_in_no_dump_no_log_and_no_answer(
    owner: Caller, stranger: Caller, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    key = {"Idempotency-Key": "canary"}
    made = await owner.post("/v1/orgs/{org}/secrets", NEW, headers=key)
    path = f"/v1/orgs/{{org}}/secrets/{made.body['secret']['id']}"
    answers = [
        made,
        # One that stays as it was created, beside the one that is replaced below.
        await owner.post("/v1/orgs/{org}/secrets", NEW | {"name": "kept"}),
        await owner.post("/v1/orgs/{org}/secrets", NEW, headers=key),
        await owner.post("/v1/orgs/{org}/secrets", NEW),
        await owner.post("/v1/orgs/{org}/secrets", NEW | {"name": 3}),
        await owner.put(path, {"value": CANARY}),
        await stranger.put(path, {"value": CANARY}),
        await owner.get("/v1/orgs/{org}/secrets"),
        await owner.get("/v1/orgs/{org}/audit-log"),
    ]
    assert all(CANARY not in str(answer.body) + str(answer.headers) for answer in answers)
    dump = dump_database(database_url)
    assert b"CREATE TABLE public.secrets" in dump
    for form in (CANARY.encode(), CANARY.encode().hex().encode(), b64encode(CANARY.encode())):
        assert form not in dump
    logged = capfd.readouterr()
    assert CANARY not in logged.out + logged.err
