"""API keys, and the audit log that tells of them."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from tests.support.control import Answer, Caller, Control


async def make(caller: Caller, role: str = "member", **more: object) -> Answer:
    return await caller.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": role} | more)


async def test_a_key_acts_in_its_organization_with_its_role(control: Control, owner: Caller, stranger: Caller) -> None:
    made = await make(owner, "member")
    assert made.status == 201
    machine = control.with_token(made.body["value"], owner.org_id)
    assert (await machine.get("/v1/orgs/{org}/members")).status == 200
    assert (await machine.get("/v1/orgs/{org}/api-keys")).code == "FORBIDDEN"
    elsewhere = control.with_token(made.body["value"], stranger.org_id)
    assert (await elsewhere.get("/v1/orgs/{org}/members")).code == "ORG_ACCESS_DENIED"
    # What is a person's is not a machine's.
    assert (await machine.get("/v1/me")).code == "FORBIDDEN"
    assert (await machine.post("/v1/orgs", {"name": "Mine", "slug": "mine-now"})).code == "FORBIDDEN"


async def test_the_value_is_shown_once_and_kept_as_a_digest(owner: Caller, superuser: "asyncpg.Connection") -> None:
    made = await make(owner)
    listed = await owner.get("/v1/orgs/{org}/api-keys")
    assert [set(key) for key in listed.body["apiKeys"]] == [set(made.body["apiKey"])]
    secret = made.body["value"].split("_", 1)[1]
    assert secret not in str(await superuser.fetch("select * from api_keys"))
    assert secret not in str(await superuser.fetch("select * from audit_log"))


async def test_a_revoked_key_stops_at_once(control: Control, owner: Caller) -> None:
    made = await make(owner)
    machine = control.with_token(made.body["value"], owner.org_id)
    path = f"/v1/orgs/{{org}}/api-keys/{made.body['apiKey']['id']}"
    assert (await owner.delete(path)).body == {"ok": True}
    assert (await machine.get("/v1/orgs/{org}/members")).status == 401
    assert (await owner.delete(path)).status == 404
    assert (await owner.get("/v1/orgs/{org}/api-keys")).body["apiKeys"] == []


async def test_an_expired_key_is_unauthorized(control: Control, owner: Caller, superuser: "asyncpg.Connection") -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = await make(owner, expiresAt=later)
    assert made.status == 201
    await superuser.execute("update api_keys set expires_at = now() - interval '1 second'")
    machine = control.with_token(made.body["value"], owner.org_id)
    assert (await machine.get("/v1/orgs/{org}/members")).status == 401


@pytest.mark.parametrize(
    "expires",
    [
        "2020-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        "tomorrow",
        "2030-01-01T00:00:00",
    ],
)
async def test_a_key_does_not_expire_at_an_impossible_time(owner: Caller, expires: str) -> None:
    answer = await make(owner, expiresAt=expires)
    assert (answer.status, list(answer.body["details"]["fieldErrors"])) == (400, ["expiresAt"])


async def test_nobody_makes_a_key_above_themselves(control: Control, owner: Caller) -> None:
    admin, member = await control.join(owner, "admin"), await control.join(owner)
    assert (await make(admin, "owner")).code == "FORBIDDEN"
    assert (await make(member, "member")).code == "FORBIDDEN"
    of_owner = await make(owner, "owner")
    path = f"/v1/orgs/{{org}}/api-keys/{of_owner.body['apiKey']['id']}"
    assert (await admin.delete(path)).code == "FORBIDDEN"


async def test_the_audit_log_tells_who_what_when_and_from_where(control: Control, owner: Caller) -> None:
    made = await make(owner, "admin")
    machine = control.with_token(made.body["value"], owner.org_id)
    headers = {"x-request-id": "by-machine", "User-Agent": "script/1"}
    await machine.put("/v1/orgs/{org}/settings", {"tools": {"shellRunEnabled": True}}, headers=headers)
    entries = (await owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    assert [entry["action"] for entry in entries] == ["settings.changed", "api_key.created", "organization.created"]
    newest = entries[0]
    assert newest["actor"] == {"userId": owner.user_id, "apiKeyId": made.body["apiKey"]["id"]}
    assert (newest["requestId"], newest["ip"], newest["userAgent"]) == ("by-machine", "127.0.0.1", "script/1")
    assert newest["details"] == {"tools": {"shellRunEnabled": True}}
    assert newest["createdAt"].endswith("Z")
    member = await control.join(owner)
    assert (await member.get("/v1/orgs/{org}/audit-log")).code == "FORBIDDEN"


async def test_the_server_cannot_change_the_audit_log(control: Control, owner: Caller) -> None:
    assert owner.org_id is not None
    async with control.plane.deps.database.system() as connection:
        for statement in ("update audit_log set action = 'x'", "delete from audit_log", "truncate audit_log"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
