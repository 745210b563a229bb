"""Pairing and agents over HTTP: both spellings, every code, live changes and their trace."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from tests.support.control import Answer, Caller, Control

from vespid.store.connections import authenticate
from vespid.store.pool import Database
from vespid_protocol.ids import hash_token, new_id

CAPABILITIES = {"kinds": ["agent.execute"], "connectors": ["github"], "tags": ["hint"], "maxInFlight": 4}


async def pairing_token(owner: Caller, noun: str = "agents") -> str:
    answer = await owner.post(f"/v1/orgs/{{org}}/{noun}/pairing-tokens")
    assert answer.status == 201, answer.body
    token: str = answer.body["token"]
    return token


async def pair(control: Control, token: str, noun: str = "agents", **body: Any) -> Answer:
    return await control.anonymous().post(f"/v1/{noun}/pair", {"pairingToken": token, "name": "host-1"} | body)


async def paired(control: Control, owner: Caller, **body: Any) -> dict[str, str]:
    answer = await pair(control, await pairing_token(owner), **body)
    assert answer.status == 201, answer.body
    agent: dict[str, str] = answer.body
    return agent


async def listed(owner: Caller) -> list[dict[str, Any]]:
    agents: list[dict[str, Any]] = (await owner.get("/v1/orgs/{org}/agents")).body["agents"]
    return agents


@pytest.mark.parametrize("noun", ["agents", "executors"])
async def test_a_pairing_token_becomes_an_agent(control: Control, owner: Caller, noun: str) -> None:
    token = await pairing_token(owner, noun)
    assert token.startswith(f"{owner.org_id}.")
    answer = await pair(control, token, noun, agentVersion="1.2.3", capabilities=CAPABILITIES)
    assert answer.status == 201
    body = answer.body
    assert set(body) == {"agentId", "agentToken", "executorId", "executorToken", "organizationId", "gatewayWsUrl"}
    assert (body["agentId"], body["agentToken"]) == (body["executorId"], body["executorToken"])
    assert body["organizationId"] == owner.org_id
    assert body["agentToken"].startswith(f"{owner.org_id}.")
    answered = (await owner.get(f"/v1/orgs/{{org}}/{noun}")).body
    assert answered["agents"] == answered["executors"]
    agent = answered["agents"][0]
    assert set(agent) == {
        "id",
        "name",
        "status",
        "cordoned",
        "lastSeenAt",
        "createdAt",
        "revokedAt",
        "agentVersion",
        "tags",
        "reportedTags",
        "kinds",
        "connectors",
        "engines",
        "backends",
        "tools",
        "toolProblems",
        "engineStates",
        "maxInFlight",
        "inFlight",
    }
    assert (agent["id"], agent["name"], agent["agentVersion"]) == (body["agentId"], "host-1", "1.2.3")
    # Paired and never connected.
    assert (agent["status"], agent["lastSeenAt"]) == ("offline", None)
    assert (agent["tags"], agent["reportedTags"], agent["kinds"]) == ([], ["hint"], ["agent.execute"])
    assert agent["engineStates"] is None
    assert (agent["connectors"], agent["engines"], agent["maxInFlight"], agent["inFlight"]) == (["github"], None, 4, 0)


async def test_the_list_shows_an_agents_own_tools_and_what_is_wrong_with_others(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    agent = await paired(control, owner)
    assert [(shown["tools"], shown["toolProblems"]) for shown in await listed(owner)] == [(None, None)]
    tools = [
        {"id": "skill.greet", "description": "d" * 1_000, "inputSchema": {"type": "object"}},
        {"id": "mcp.wiki.find"},
    ]
    problems = [{"id": "mcp.tickets", "problem": "it did not answer"}]
    for offered in (tools, []):
        can = msgspec.json.encode({"tools": offered, "toolProblems": problems}).decode()
        await superuser.execute("update executors set capabilities = $2 where id = $1", UUID(agent["agentId"]), can)
        (shown,) = await listed(owner)
        assert shown["tools"] == (
            [{"id": "skill.greet", "description": "d" * 300}, {"id": "mcp.wiki.find", "description": None}]
            if offered
            else []
        )
        assert shown["toolProblems"] == problems


async def test_a_pairing_token_is_used_once(control: Control, owner: Caller) -> None:
    token = await pairing_token(owner)
    answers = await asyncio.gather(*(pair(control, token) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [201, 401, 401, 401, 401]
    assert {answer.code for answer in answers if answer.status == 401} == {"PAIRING_TOKEN_INVALID"}
    assert len(await listed(owner)) == 1


async def test_a_token_that_made_no_agent_is_not_used_up(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    token = await pairing_token(owner)
    await superuser.execute("alter table executors add constraint refuse check (name <> 'host-1')")
    assert (await pair(control, token)).status == 500
    await superuser.execute("alter table executors drop constraint refuse")
    assert (await pair(control, token)).status == 201


async def test_an_expired_pairing_token_says_so(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    token = await pairing_token(owner)
    remaining = await superuser.fetchval("select extract(epoch from expires_at - now()) from pairing_tokens")
    assert 890 < remaining <= 900
    await superuser.execute("update pairing_tokens set expires_at = now()")
    answer = await pair(control, token)
    assert (answer.status, answer.code) == (400, "PAIRING_TOKEN_EXPIRED")
    assert await listed(owner) == []


@pytest.mark.parametrize("token", ["", "nonsense", "{org}.", "{org}.wrong", f"{UUID(int=7)}.vpt_x"])
async def test_a_token_that_is_none_is_refused(control: Control, owner: Caller, token: str) -> None:
    answer = await pair(control, token.replace("{org}", str(owner.org_id)))
    assert (answer.status, answer.code) == (401, "PAIRING_TOKEN_INVALID")


async def test_a_pairing_with_a_bad_name_names_the_field_and_keeps_the_token(control: Control, owner: Caller) -> None:
    token = await pairing_token(owner)
    for name in ("", "x" * 121):
        answer = await pair(control, token, name=name)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
        assert "name" in answer.body["details"]["fieldErrors"]
    assert (await pair(control, token)).status == 201


@pytest.mark.promise("P7")
async def test_tokens_are_stored_as_hashes_only(
    control: Control, owner: Caller, superuser: "asyncpg.Connection", database: Database
) -> None:
    token = await pairing_token(owner)
    agent = (await pair(control, token)).body
    for table in ("pairing_tokens", "executors", "audit_log", "control_feed"):
        stored = str(await superuser.fetch(f"select * from {table}"))
        assert token.partition(".")[2] not in stored
        assert agent["agentToken"].partition(".")[2] not in stored
    known = await authenticate(database, hash_token(agent["agentToken"]))
    assert known is not None
    assert (str(known.executor_id), str(known.organization_id)) == (agent["agentId"], owner.org_id)


async def connect(superuser: "asyncpg.Connection", agent_id: str, *, seen_ago_s: float = 0) -> None:
    """A live connection of the agent, at an edge that has just renewed its lease."""
    edge = UUID(new_id())
    await superuser.execute(
        "insert into processes (id, kind, lease_until) values ($1, 'gateway', now() + interval '15 s')", edge
    )
    await superuser.execute(
        """update executors set edge_id = $2, lost_at = null, connection_epoch = connection_epoch + 1,
               connected_at = now(), last_seen_at = now() - $3 * interval '1 s' where id = $1""",
        UUID(agent_id),
        edge,
        seen_ago_s,
    )


async def test_an_agent_is_online_while_its_connection_is_heard_of(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    agent = await paired(control, owner)
    # Connected an hour ago; since then its edge has gone on renewing its lease.
    await connect(superuser, agent["agentId"], seen_ago_s=3600)
    assert [shown["status"] for shown in await listed(owner)] == ["online"]
    # The edge has been silent for longer than the agent's window, however long its own lease is.
    await superuser.execute("update processes set renewed_at = now() - interval '70 s'")
    assert [shown["status"] for shown in await listed(owner)] == ["offline"]
    await superuser.execute("update processes set renewed_at = now()")
    await superuser.execute("update executors set lost_at = now(), last_seen_at = now()")
    closed = (await listed(owner))[0]
    assert closed["status"] == "offline"
    assert closed["lastSeenAt"] is not None


async def test_agents_are_found_by_how_they_stand_by_tag_and_by_name(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    ids = {name: (await paired(control, owner, name=name))["agentId"] for name in ("Live", "silent", "kept", "gone")}
    for name in ("Live", "silent", "kept"):
        await connect(superuser, ids[name])
    await superuser.execute(
        """update processes set renewed_at = now() - interval '70 s'
           where id = (select edge_id from executors where name = 'silent')"""
    )
    await superuser.execute("update executors set last_seen_at = now() - interval '70 s' where name = 'silent'")
    await owner.post(f"/v1/orgs/{{org}}/agents/{ids['kept']}/cordon")
    await owner.post(f"/v1/orgs/{{org}}/agents/{ids['gone']}/revoke")
    await owner.put(f"/v1/orgs/{{org}}/agents/{ids['Live']}/tags", {"tags": ["east", "gpu"]})
    for query, names in (
        ("status=online", ["Live"]),
        ("status=offline", ["silent"]),
        ("status=cordoned", ["kept"]),
        ("status=revoked", ["gone"]),
        ("tag=gpu", ["Live"]),
        ("tag=hint", []),
        ("q=LIV", ["Live"]),
        ("q=%25", []),
        ("status=online&tag=gpu&q=live", ["Live"]),
    ):
        found = (await owner.get(f"/v1/orgs/{{org}}/agents?{query}")).body["agents"]
        assert [agent["name"] for agent in found] == names, query
    one = (await owner.get(f"/v1/orgs/{{org}}/executors/{ids['Live']}")).body
    assert (one["agent"]["name"], one["executor"]) == ("Live", one["agent"])
    assert (await owner.get("/v1/orgs/{org}/agents?status=lost")).status == 400


async def test_who_made_a_pairing_token_sees_which_agent_it_became(control: Control, owner: Caller) -> None:
    made = (await owner.post("/v1/orgs/{org}/agents/pairing-tokens")).body
    path = f"/v1/orgs/{{org}}/agents/pairing-tokens/{made['id']}"
    waiting = {"id": made["id"], "expiresAt": made["expiresAt"], "usedAt": None, "agentId": None}
    assert (await owner.get(path)).body == {"pairingToken": waiting}
    agent = (await pair(control, made["token"])).body
    state = (await owner.get(path)).body["pairingToken"]
    assert (state["agentId"], state["usedAt"] is not None) == (agent["agentId"], True)
    assert made["token"].partition(".")[2] not in str(state)


async def test_tags_are_set_whole_and_told_at_once(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    agent = await paired(control, owner)
    path = f"/v1/orgs/{{org}}/agents/{agent['agentId']}/tags"
    answer = await owner.put(path, {"tags": ["west", "group:beta", "west"]})
    assert answer.body == {
        "ok": True,
        "agent": {"id": agent["agentId"], "tags": ["west", "group:beta"]},
        "executor": {"id": agent["agentId"], "labels": ["west", "group:beta"]},
    }
    assert (await listed(owner))[0]["tags"] == ["west", "group:beta"]
    row = await superuser.fetchrow("select * from control_feed order by id desc limit 1")
    assert (row["kind"], row["subject_id"], str(row["organization_id"])) == (
        "executor_tags",
        agent["agentId"],
        owner.org_id,
    )
    for tags in (["x" * 65], [""], [" x"], [f"t{n}" for n in range(51)], "west", [1]):
        refused = await owner.put(path, {"tags": tags})
        assert (refused.status, refused.code) == (400, "BAD_REQUEST")


async def test_cordoning_is_shown_and_undone(control: Control, owner: Caller, superuser: "asyncpg.Connection") -> None:
    agent = await paired(control, owner)
    path = f"/v1/orgs/{{org}}/executors/{agent['agentId']}"
    assert (await owner.post(f"{path}/cordon")).body == {"ok": True}
    assert (await listed(owner))[0]["cordoned"] is True
    assert (await owner.post(f"{path}/uncordon")).body == {"ok": True}
    assert (await listed(owner))[0]["cordoned"] is False
    kinds = await superuser.fetch("select kind from control_feed order by id")
    assert [row["kind"] for row in kinds][-2:] == ["executor_cordoned", "executor_uncordoned"]


@pytest.mark.promise("P6")
async def test_a_revoked_agent_is_known_no_more_and_stays_revoked(
    control: Control, owner: Caller, superuser: "asyncpg.Connection", database: Database
) -> None:
    agent = await paired(control, owner)
    path = f"/v1/orgs/{{org}}/agents/{agent['agentId']}"
    assert (await owner.post(f"{path}/revoke")).body == {"ok": True}
    shown = (await listed(owner))[0]
    assert shown["status"] == "revoked"
    assert shown["revokedAt"] is not None
    known = await authenticate(database, hash_token(agent["agentToken"]))
    assert known is not None
    assert known.revoked
    # Once more is the same revoke, and nothing brings it back.
    assert (await owner.post(f"{path}/revoke")).status == 200
    assert (await listed(owner))[0]["revokedAt"] == shown["revokedAt"]
    for answer in (
        await owner.put(f"{path}/tags", {"tags": []}),
        await owner.post(f"{path}/uncordon"),
        await owner.post(f"{path}/rotate-token"),
    ):
        assert (answer.status, answer.code) == (404, "AGENT_NOT_FOUND")
    feed = "select count(*) from control_feed where kind = 'executor_revoked'"
    assert await superuser.fetchval(feed) == 1


async def test_after_a_rotation_both_tokens_work_for_a_while(
    control: Control, owner: Caller, superuser: "asyncpg.Connection", database: Database
) -> None:
    agent = await paired(control, owner)
    answer = await owner.post(f"/v1/orgs/{{org}}/agents/{agent['agentId']}/rotate-token")
    assert answer.status == 200
    assert answer.body["agentToken"] == answer.body["executorToken"]
    old, new = hash_token(agent["agentToken"]), hash_token(answer.body["agentToken"])
    assert old != new
    for token in (old, new):
        assert await authenticate(database, token) is not None
    left = await superuser.fetchval("select extract(epoch from previous_token_until - now()) from executors")
    assert 590 < left <= 600
    await superuser.execute("update executors set previous_token_until = now()")
    assert await authenticate(database, old) is None
    assert await authenticate(database, new) is not None


def operations(agent_id: str) -> list[tuple[str, str, object]]:
    """Every route of one agent, in both spellings."""
    return [
        call
        for noun in ("agents", "executors")
        for call in (
            ("PUT", f"/v1/orgs/{{org}}/{noun}/{agent_id}/tags", {"tags": ["mine"]}),
            ("GET", f"/v1/orgs/{{org}}/{noun}/{agent_id}", None),
            ("POST", f"/v1/orgs/{{org}}/{noun}/{agent_id}/cordon", None),
            ("POST", f"/v1/orgs/{{org}}/{noun}/{agent_id}/uncordon", None),
            ("POST", f"/v1/orgs/{{org}}/{noun}/{agent_id}/rotate-token", None),
            ("POST", f"/v1/orgs/{{org}}/{noun}/{agent_id}/revoke", None),
        )
    ]


@pytest.mark.promise("P5")
async def test_a_foreign_agent_is_not_there(control: Control, owner: Caller, stranger: Caller) -> None:
    agent = await paired(control, owner)
    before = await listed(owner)
    assert await listed(stranger) == []
    for agent_id in (agent["agentId"], str(uuid4()), "not-an-id"):
        for method, path, body in operations(agent_id):
            answer = await stranger.call(method, path, body)
            assert (answer.status, answer.code) == (404, "AGENT_NOT_FOUND")
    assert await listed(owner) == before


@pytest.mark.promise("P5")
async def test_a_pairing_token_under_another_organization_pairs_nothing(
    control: Control, owner: Caller, stranger: Caller
) -> None:
    secret = (await pairing_token(owner)).partition(".")[2]
    answer = await pair(control, f"{stranger.org_id}.{secret}")
    assert (answer.status, answer.code) == (401, "PAIRING_TOKEN_INVALID")
    assert (await listed(owner), await listed(stranger)) == ([], [])


async def test_agents_are_for_owners_and_admins(control: Control, owner: Caller) -> None:
    agent = await paired(control, owner)
    member = await control.join(owner, "member")
    calls = [*operations(agent["agentId"]), ("GET", "/v1/orgs/{org}/agents", None)]
    calls.append(("POST", "/v1/orgs/{org}/agents/pairing-tokens", None))
    answers = [await member.call(method, path, body) for method, path, body in calls]
    assert {(answer.status, answer.code) for answer in answers} == {(403, "FORBIDDEN")}


async def test_every_change_of_an_agent_is_told_in_the_audit_log(control: Control, owner: Caller) -> None:
    agent = await paired(control, owner)
    for method, path, body in operations(agent["agentId"])[:6]:
        assert (await owner.call(method, path, body)).status == 200
    entries = (await owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    told = [entry["action"] for entry in entries if entry["objectId"] == agent["agentId"]]
    assert told == [
        "agent.revoked",
        "agent.token_rotated",
        "agent.uncordoned",
        "agent.cordoned",
        "agent.tags_changed",
        "agent.paired",
    ]
    assert [entry for entry in entries if entry["action"] == "pairing_token.created"]
