"""Sessions over HTTP: made once per key, looked at, given a title; their events, page by page."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.support.control import Caller, Control

from vespid.control import sessions

S = "/v1/orgs/{org}/sessions"
FIELDS = {
    "id",
    "organizationId",
    "createdByUserId",
    "sessionKey",
    "scope",
    "title",
    "status",
    "pinnedExecutorId",
    "pinnedExecutorPool",
    "pinnedAgentId",
    "routedAgentId",
    "bindingId",
    "executionMode",
    "executorSelector",
    "engineId",
    "llmProvider",
    "llmModel",
    "toolsAllow",
    "limits",
    "promptSystem",
    "promptInstructions",
    "createdAt",
    "updatedAt",
    "lastActivityAt",
}


async def begin(caller: Caller, **body: object) -> dict[str, object]:
    answer = await caller.post(S, body)
    assert answer.status == 201, answer.body
    session: dict[str, object] = answer.body["session"]
    return session


async def test_everything_may_be_left_out(owner: Caller) -> None:
    answer = await owner.post(S)
    assert answer.status == 201, answer.body
    session = answer.body["session"]
    assert set(session) >= FIELDS
    assert session["sessionKey"] == f"agent:main:org:{owner.org_id}:scope:main"
    assert (session["scope"], session["engineId"], session["executionMode"], session["status"]) == (
        "main",
        "vespid.echo.v1",
        "pinned-node-host",
        "active",
    )
    assert (session["createdByUserId"], session["organizationId"]) == (owner.user_id, owner.org_id)
    pinned = [session[name] for name in ("pinnedExecutorId", "pinnedExecutorPool", "pinnedAgentId", "routedAgentId")]
    assert pinned == [None] * 4
    assert len(session["lastActivityAt"]) == len("2026-01-02T03:04:05.678Z")


async def test_all_that_is_said_is_kept_and_shown(owner: Caller) -> None:
    secret = await owner.post("/v1/orgs/{org}/secrets", {"connectorId": "openai", "name": "key", "value": "v"})
    session = await begin(
        owner,
        title="Support",
        scope="per-account-channel-peer",
        peer="Ann Smith",
        channel="Slack",
        context={"account": "ACME", "more": 1},
        executionMode="pinned-node-host",
        engine={"id": "vespid.loop.v1", "model": "m", "auth": {"secretId": secret.body["secret"]["id"]}},
        llm={"provider": "openai", "model": "m"},
        prompt={"system": "s", "instructions": "i"},
        tools={"allow": ["memory.search", "shell.run", "memory.search"]},
        limits={"maxTurns": 3, "timeoutMs": 5000},
        executorSelector={"pool": "managed", "labels": ["gpu"], "group": "g"},
        onMessageWhileBusy="reject",
        onHostLost="fail",
        pinPolicy="home",
    )
    key = str(session["sessionKey"])
    head = f"agent:main:org:{owner.org_id}:scope:per-account-channel-peer:account:acme:channel:slack:peer:ann-smith~"
    assert key.startswith(head)
    assert (session["title"], session["engineId"], session["llmProvider"], session["llmModel"]) == (
        "Support",
        "vespid.loop.v1",
        "openai",
        "m",
    )
    assert session["executorSelector"] == {"pool": "managed", "labels": ["gpu"], "group": "g"}
    assert session["toolsAllow"] == ["memory.search", "shell.run"]
    assert session["limits"] == {"maxTurns": 3, "timeoutMs": 5000}
    assert (session["promptSystem"], session["promptInstructions"]) == ("s", "i")
    assert (session["onMessageWhileBusy"], session["onHostLost"], session["pinPolicy"]) == ("reject", "fail", "home")
    assert (await owner.get(f"{S}/{session['id']}")).body == {"session": session}


async def test_what_a_turn_needs_of_its_host_is_put_down(owner: Caller, superuser: "asyncpg.Connection") -> None:
    host = str(uuid4())
    session = await begin(owner, executorSelector={"labels": ["gpu"], "tag": "west", "executorId": host.upper()})
    row = await superuser.fetchrow(
        """select requirement->>'kind' as kind, requirement->>'engine' as engine, required_tags, pool,
           only_executor_id, turn_timeout_ms from sessions where id = $1""",
        UUID(str(session["id"])),
    )
    assert row is not None
    assert dict(row) == {
        "kind": "agent.run",
        "engine": "vespid.echo.v1",
        "required_tags": ["gpu", "west"],
        "pool": None,
        "only_executor_id": UUID(host),
        "turn_timeout_ms": 300_000,
    }


async def test_a_pinned_session_says_where_it_lives(owner: Caller, superuser: "asyncpg.Connection") -> None:
    session = await begin(owner)
    host = uuid4()
    await superuser.execute(
        "update sessions set pinned_executor_id = $2, pinned_pool = 'byon' where id = $1",
        UUID(str(session["id"])),
        host,
    )
    shown = (await owner.get(f"{S}/{session['id']}")).body["session"]
    assert (shown["pinnedExecutorId"], shown["pinnedAgentId"]) == (str(host), str(host))
    assert shown["pinnedExecutorPool"] == "byon"


async def test_the_organizations_default_model_answers(owner: Caller) -> None:
    default = {"llm": {"defaults": {"primary": {"provider": "anthropic", "model": "big"}}}}
    assert (await owner.put("/v1/orgs/{org}/settings", default)).status == 200
    session = await begin(owner)
    assert (session["engineId"], session["llmProvider"], session["llmModel"]) == ("vespid.loop.v1", "anthropic", "big")


async def test_the_same_key_is_the_same_session(control: Control, owner: Caller) -> None:
    first = await begin(owner, scope="per-peer", peer="ann", title="First")
    member = await control.join(owner, "member")
    again = await member.post(S, {"scope": "per-peer", "peer": " ANN", "title": "Second"})
    assert (again.status, again.body) == (200, {"session": first})
    other = await begin(owner, scope="per-peer", peer="ann!")
    assert other["id"] != first["id"]


async def test_creations_at_once_make_one_session(owner: Caller) -> None:
    answers = await asyncio.gather(*(owner.post(S, {"peer": "x", "scope": "per-peer"}) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [201]
    assert len({answer.body["session"]["id"] for answer in answers}) == 1


async def test_a_peer_is_the_actor_else_the_caller(owner: Caller) -> None:
    assert str((await begin(owner, scope="per-peer", actor="bob"))["sessionKey"]).endswith(":peer:bob")
    assert str((await begin(owner, scope="per-peer"))["sessionKey"]).endswith(f":peer:{owner.user_id}")


async def test_a_repeated_creation_answers_what_was_answered(owner: Caller) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await owner.post(S, {"title": "t"}, headers=key)
    again = await owner.post(S, {"title": "t"}, headers=key)
    assert (first.status, first.body) == (again.status, again.body) == (201, first.body)
    other = await owner.post(S, {"title": "u"}, headers=key)
    assert (other.status, other.code) == (409, "CONFLICT")
    existing = [await owner.post(S, {}, headers={"Idempotency-Key": "k2"}) for _ in range(2)]
    assert [answer.status for answer in existing] == [200, 200]
    assert existing[0].body == existing[1].body


async def test_a_secret_must_be_the_organizations(owner: Caller, stranger: Caller) -> None:
    theirs = await stranger.post("/v1/orgs/{org}/secrets", {"connectorId": "openai", "name": "key", "value": "v"})
    for secret_id in (theirs.body["secret"]["id"], str(uuid4()), "no-id"):
        for body in (
            {"engine": {"id": "vespid.loop.v1", "auth": {"secretId": secret_id}}},
            {"llm": {"provider": "openai", "model": "m", "auth": {"secretId": secret_id}}},
        ):
            answer = await owner.post(S, body)
            assert (answer.status, answer.code) == (404, "SECRET_NOT_FOUND")
    assert (await owner.get(S)).body["sessions"] == []


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"scope": "all", "title": "x" * 201, "executionMode": "x"}, {"scope", "title", "executionMode"}),
        ({"engineId": "nope", "tools": {"allow": ["rm"]}}, {"engineId", "tools.allow[0]"}),
        ({"tools": {"allow": ["connector.nope.x"]}}, {"tools.allow[0]"}),
        ({"limits": {"timeoutMs": 1}}, {"limits.timeoutMs"}),
        ({"executorSelector": {"pool": "cloud"}}, {"executorSelector.pool"}),
        ({"executorSelector": {"executorId": "x"}}, {"executorSelector.executorId"}),
        ({"context": {"account": 1}}, {"context.account"}),
        ({"prompt": {}}, {"prompt.instructions"}),
    ],
)
async def test_fields_at_fault_are_named(owner: Caller, body: dict[str, object], fields: set[str]) -> None:
    answer = await owner.post(S, body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert set(answer.body["details"]["fieldErrors"]) == fields


async def test_a_title_is_changed_and_taken_away(owner: Caller, stranger: Caller) -> None:
    session = await begin(owner, title="Old")
    path = f"{S}/{session['id']}"
    assert (await owner.call("PATCH", path, {"title": "New"})).body["session"]["title"] == "New"
    assert (await owner.call("PATCH", path, {})).body["session"]["title"] == "New"
    assert (await owner.call("PATCH", path, {"title": None})).body["session"]["title"] is None
    for refused in (await stranger.call("PATCH", path, {"title": "x"}), await stranger.call("PATCH", path, {})):
        assert (refused.status, refused.code) == (404, "SESSION_NOT_FOUND")


async def test_pages_of_sessions_neither_repeat_nor_hide_while_others_begin(owner: Caller) -> None:
    made = [str((await begin(owner, scope="per-peer", peer=f"p{number}"))["id"]) for number in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await owner.get(f"{S}?limit=2{cursor}")).body
        seen += [session["id"] for session in page["sessions"]]
        if page["nextCursor"] is None:
            break
        await begin(owner, scope="per-peer", peer=f"later{len(seen)}")
        assert (await owner.post(f"{S}/{made[0]}/messages", {"message": "busy"})).status == 202
        cursor = f"&cursor={page['nextCursor']}"
    assert seen == made[::-1]


async def test_events_come_in_order_page_by_page(owner: Caller) -> None:
    session = await begin(owner)
    for number in range(4):
        await owner.post(f"{S}/{session['id']}/messages", {"message": f"m{number}"})
    path = f"{S}/{session['id']}/events"
    every = (await owner.get(path)).body["events"]
    assert [event["seq"] for event in every] == [1, 2, 3, 4, 5]
    assert [event["eventType"] for event in every] == ["session_created"] + ["user_message"] * 4
    assert set(every[1]) == {
        "id",
        "organizationId",
        "sessionId",
        "seq",
        "eventType",
        "level",
        "idempotencyKey",
        "payload",
        "createdAt",
    }
    assert every[1]["payload"] == {"message": "m0", "attachments": []}
    first = (await owner.get(f"{path}?limit=2")).body
    second = (await owner.get(f"{path}?limit=2&cursor={first['nextCursor']}")).body
    last = (await owner.get(f"{path}?limit=2&cursor={second['nextCursor']}")).body
    assert first["events"] + second["events"] + last["events"] == every
    assert last["nextCursor"] is None
    assert (await owner.get(f"{path}?afterSeq=3")).body == {"events": every[3:], "nextCursor": None}
    both = await owner.get(f"{path}?afterSeq=3&cursor={first['nextCursor']}")
    assert (both.status, set(both.body["details"]["fieldErrors"])) == (400, {"afterSeq"})
    assert (await owner.get(f"{path}?cursor=nonsense")).status == 400


async def test_a_page_of_large_events_ends_early_and_says_that_there_are_more(
    owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PAGE_BYTES", 1_000)
    session = await begin(owner)
    for size in (10, 5_000, 10, 10):
        assert (await owner.post(f"{S}/{session['id']}/messages", {"message": "x" * size})).status == 202
    path, cursor, pages = f"{S}/{session['id']}/events?limit=3", "", []
    while cursor is not None:
        page = (await owner.get(f"{path}{cursor and '&cursor='}{cursor}")).body
        pages.append([event["seq"] for event in page["events"]])
        cursor = page["nextCursor"]
    assert pages == [[1, 2], [3], [4, 5]]


async def test_a_cursor_of_another_list_or_of_none_is_refused(owner: Caller) -> None:
    made = [await begin(owner, scope="per-peer", peer=peer) for peer in "ab"]
    events = f"{S}/{made[0]['id']}/events"
    assert (await owner.post(f"{S}/{made[0]['id']}/messages", {"message": "hi"})).status == 202
    by_id = (await owner.get(f"{S}?limit=1")).body["nextCursor"]
    by_seq = (await owner.get(f"{events}?limit=1")).body["nextCursor"]
    for path, foreign in ((S, by_seq), ("/v1/orgs/{org}/agent-bindings", by_seq), (events, by_id)):
        for cursor in (foreign, "nonsense", "", "%00", "x" * 300):
            answer = await owner.get(f"{path}?cursor={cursor}")
            assert (answer.status, answer.code) == (400, "BAD_REQUEST"), (path, cursor)
            assert set(answer.body["details"]["fieldErrors"]) == {"cursor"}
    for after in ("-1", "x", str(2**63)):
        assert (await owner.get(f"{events}?afterSeq={after}")).status == 400
    assert (await owner.get(f"{events}?afterSeq={2**62}")).body == {"events": [], "nextCursor": None}


async def test_unknown_keys_are_ignored(owner: Caller) -> None:
    session = await begin(owner, nobodyKnows=1, engine={"id": "vespid.echo.v1", "more": 1}, tools={"allow": [], "x": 1})
    path = f"{S}/{session['id']}"
    attachment = {"name": "a", "mimeType": "b", "more": 1}
    answer = await owner.post(f"{path}/messages", {"message": "hi", "attachments": [attachment], "more": 1})
    assert answer.body["event"]["payload"] == {"message": "hi", "attachments": [{"name": "a", "mimeType": "b"}]}
    assert (await owner.post(f"{path}/cancel", {"more": 1})).status == 200
    assert (await owner.post(f"{path}/reset", {"more": 1})).status == 200


@pytest.mark.promise("P5")
async def test_a_foreign_session_is_not_there(owner: Caller, stranger: Caller) -> None:
    session = await begin(owner)
    await owner.post(f"{S}/{session['id']}/messages", {"message": "mine"})
    path = f"{S}/{session['id']}"
    answers = [
        await stranger.get(path),
        await stranger.get(f"{path}/events"),
        await stranger.post(f"{path}/messages", {"message": "hi"}),
        await stranger.post(f"{path}/cancel"),
        await stranger.post(f"{path}/reset", {"mode": "clear_history"}),
        await stranger.get(f"{S}/no-id"),
    ]
    assert [(answer.status, answer.code) for answer in answers] == [(404, "SESSION_NOT_FOUND")] * 6
    assert (await stranger.get(S)).body == {"sessions": [], "nextCursor": None}
    assert len((await owner.get(f"{path}/events")).body["events"]) == 2
