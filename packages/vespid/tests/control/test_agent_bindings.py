"""Agent bindings over HTTP, and where sessions go by them."""

import aiohttp
import msgspec
import pytest
from tests.support.control import Caller, Control, api_settings
from tests.support.organization import until

from vespid.control.app import ControlPlane
from vespid.dispatch.feed import ControlFeed

B = "/v1/orgs/{org}/agent-bindings"
S = "/v1/orgs/{org}/sessions"


async def bind(
    owner: Caller, agent_id: str, dimension: str, match: dict[str, object] | None = None, **more: object
) -> str:
    answer = await owner.post(B, {"agentId": agent_id, "dimension": dimension, "match": match or {}} | more)
    assert answer.status == 201, answer.body
    return str(answer.body["binding"]["id"])


async def begin(caller: Caller, **body: object) -> dict[str, object]:
    answer = await caller.post(S, body)
    assert answer.status == 201, answer.body
    session: dict[str, object] = answer.body["session"]
    return session


async def say(caller: Caller, session: dict[str, object], message: str = "hi") -> list[dict[str, object]]:
    """Say something; answers all events of the session."""
    answer = await caller.post(f"{S}/{session['id']}/messages", {"message": message})
    assert answer.status == 202, answer.body
    events: list[dict[str, object]] = (await caller.get(f"{S}/{session['id']}/events")).body["events"]
    return events


async def test_a_binding_is_made_changed_and_taken_away(owner: Caller) -> None:
    body = {"agentId": "support", "dimension": "peer", "match": {"peer": "ann"}, "metadata": {"why": "vip"}}
    made = await owner.post(B, body)
    assert made.status == 201, made.body
    binding = made.body["binding"]
    assert {name: binding[name] for name in body} == body
    assert (binding["priority"], binding["organizationId"], binding["createdByUserId"]) == (
        0,
        owner.org_id,
        owner.user_id,
    )
    assert (await owner.get(B)).body == {"bindings": [binding], "nextCursor": None}
    path = f"{B}/{binding['id']}"
    changed = (await owner.call("PATCH", path, {"priority": 5, "match": {"peer": ["ann", "bob"]}})).body["binding"]
    assert (changed["priority"], changed["match"], changed["metadata"]) == (5, {"peer": ["ann", "bob"]}, {"why": "vip"})
    refused = await owner.call("PATCH", path, {"dimension": "channel"})
    assert (refused.status, set(refused.body["details"]["fieldErrors"])) == (400, {"match.channel"})
    assert (await owner.delete(path)).body == {"ok": True}
    for gone in (await owner.delete(path), await owner.call("PATCH", path, {})):
        assert (gone.status, gone.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"agentId", "dimension"}),
        ({"agentId": "", "dimension": "planet", "priority": "1"}, {"agentId", "dimension", "priority"}),
        ({"agentId": "a", "dimension": "peer"}, {"match.peer"}),
        ({"agentId": "a", "dimension": "org_roles", "match": {"orgRoles": ["boss"]}}, {"match.orgRoles"}),
        ({"agentId": "a", "dimension": "default", "metadata": {"x": "y" * 17_000}}, {"metadata"}),
    ],
)
async def test_fields_at_fault_are_named(owner: Caller, body: dict[str, object], fields: set[str]) -> None:
    answer = await owner.post(B, body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert set(answer.body["details"]["fieldErrors"]) == fields


async def test_any_member_looks_and_changes(control: Control, owner: Caller) -> None:
    binding = await bind(owner, "support", "default")
    member = await control.join(owner, "member")
    assert len((await member.get(B)).body["bindings"]) == 1
    assert (await member.post(B, {"agentId": "a", "dimension": "default"})).status == 201
    assert (await member.call("PATCH", f"{B}/{binding}", {"priority": 1})).status == 200
    assert (await member.delete(f"{B}/{binding}")).status == 200


@pytest.mark.promise("P5")
async def test_a_foreign_binding_is_not_there_and_routes_nothing(owner: Caller, stranger: Caller) -> None:
    binding = await bind(owner, "support", "default")
    for answer in (
        await stranger.call("PATCH", f"{B}/{binding}", {"agentId": "stolen"}),
        await stranger.delete(f"{B}/{binding}"),
    ):
        assert (answer.status, answer.code) == (404, "NOT_FOUND")
    assert (await stranger.get(B)).body["bindings"] == []
    assert (await begin(stranger))["routedAgentId"] is None


async def test_a_repeated_creation_is_one_binding(owner: Caller) -> None:
    body = {"agentId": "a", "dimension": "default"}
    first, again = [await owner.post(B, body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert (first.status, first.body) == (again.status, again.body)
    assert len((await owner.get(B)).body["bindings"]) == 1


async def test_pages_of_bindings_do_not_repeat_and_end(owner: Caller) -> None:
    made = [await bind(owner, f"a{number}", "default") for number in range(3)]
    first = (await owner.get(f"{B}?limit=2")).body
    second = (await owner.get(f"{B}?limit=2&cursor={first['nextCursor']}")).body
    assert [row["id"] for row in first["bindings"] + second["bindings"]] == made[::-1]
    assert second["nextCursor"] is None


async def test_a_session_goes_where_the_most_precise_binding_says(owner: Caller) -> None:
    await bind(owner, "anybody", "default")
    await bind(owner, "owners", "org_roles", {"orgRoles": "owner"})
    peer = await bind(owner, "Support", "peer", {"peer": "ann"})
    session = await begin(owner, scope="per-peer", peer="Ann")
    assert (session["routedAgentId"], session["bindingId"]) == ("Support", peer)
    assert str(session["sessionKey"]).startswith("agent:support:")
    assert (await begin(owner, scope="per-peer", peer="bob"))["routedAgentId"] == "owners"


async def test_a_message_hands_the_session_over_when_bindings_have_changed(owner: Caller) -> None:
    session = await begin(owner, channel="slack")
    assert [event["eventType"] for event in await say(owner, session)] == ["session_created", "user_message"]
    binding = await bind(owner, "support", "channel", {"channel": "slack"})
    events = await say(owner, session)
    assert [event["eventType"] for event in events[2:]] == ["agent_handoff", "user_message"]
    assert events[2]["payload"] == {"from": None, "to": "support"}
    shown = (await owner.get(f"{S}/{session['id']}")).body["session"]
    assert (shown["routedAgentId"], shown["bindingId"]) == ("support", binding)
    # The key was given once; who shares the session does not change.
    assert shown["sessionKey"] == session["sessionKey"]
    assert [event["eventType"] for event in (await say(owner, session))[4:]] == ["user_message"]
    assert (await owner.delete(f"{B}/{binding}")).status == 200
    assert (await say(owner, session))[5]["payload"] == {"from": "support", "to": None}


async def test_the_process_that_changed_a_binding_routes_by_it_at_once(
    owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is heard of the feed.
    monkeypatch.setattr(ControlFeed, "_tell", lambda *_: None)
    session = await begin(owner)
    await say(owner, session)
    binding = await bind(owner, "support", "default")
    assert [event["payload"] for event in (await say(owner, session))[2:3]] == [{"from": None, "to": "support"}]
    assert (await owner.call("PATCH", f"{B}/{binding}", {"agentId": "sales"})).status == 200
    assert (await say(owner, session))[4]["payload"] == {"from": "support", "to": "sales"}
    assert (await owner.delete(f"{B}/{binding}")).status == 200
    assert (await say(owner, session))[6]["payload"] == {"from": "sales", "to": None}


async def test_another_process_routes_by_a_change_once_it_has_read_the_feed(
    owner: Caller, database_url: str, redis_url: str, control: Control
) -> None:
    secret = control.plane.deps.settings.auth_token_secret
    other = ControlPlane(msgspec.structs.replace(api_settings(database_url, redis_url), auth_token_secret=secret))
    await other.start()
    try:
        url = f"http://127.0.0.1:{other.port}"
        async with aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as http:
            there = Control(other, http).with_token(str(owner.token), owner.org_id)
            session = await begin(there)
            await say(there, session)
            await bind(owner, "support", "default")

            async def handed_over() -> bool:
                events = await say(there, session)
                return any(event["eventType"] == "agent_handoff" for event in events)

            # Well below the time for which bindings are kept where the feed is not heard.
            await until(handed_over, "the other process has read the feed", within_s=5.0)
    finally:
        await other.stop()
