"""Hints of what changes in an organization: for its members only, and never more of them than there are kinds."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from tests.support.control import Caller, Control
from tests.support.run_steps import published, start
from tests.support.run_stream import PATIENCE_S, Frames, Opened

from vespid.bus.org_news import OrgNews
from vespid.control import org_stream
from vespid.control.context import TenantContext
from vespid.control.org_stream import KINDS, OrgWatch
from vespid_protocol.ids import new_id

STREAM = "/v1/orgs/{org}/stream"


async def hints(frames: Frames, *kinds: str) -> dict[str, str | None]:
    """The ids that hints came with, once one of each kind has come."""
    found: dict[str, str | None] = {}
    while not found.keys() >= set(kinds):
        frame = await frames.next()
        data = msgspec.json.decode(frame["data"])
        assert data["kind"] == frame["event"]
        assert data["at"].endswith("Z")
        found[frame["event"]] = data.get("id")
    return found


async def test_the_first_word_is_hello_and_changes_after_it_are_heard(control: Control, owner: Caller) -> None:
    path = await published(owner)
    async with Opened(control, owner, STREAM) as frames:
        assert (frames.answer.status, frames.answer.content_type) == (200, "text/event-stream")
        assert (await frames.next())["event"] == "hello"
        run = await start(owner, path)
        assert await hints(frames, "runs") == {"runs": run["id"]}
        assert (await owner.put("/v1/orgs/{org}/settings", {})).status == 200
        assert await hints(frames, "settings") == {"settings": None}
        session = await owner.post("/v1/orgs/{org}/sessions", {})
        await hints(frames, "sessions")
        await owner.post(f"/v1/orgs/{{org}}/sessions/{session.body['session']['id']}/reset", {})
        assert await hints(frames, "sessions") == {"sessions": session.body["session"]["id"]}


async def test_agents_that_are_paired_or_changed_are_told_of(control: Control, owner: Caller) -> None:
    async with Opened(control, owner, STREAM) as frames:
        assert (await frames.next())["event"] == "hello"
        token = (await owner.post("/v1/orgs/{org}/agents/pairing-tokens")).body["token"]
        agent = (await owner.post("/v1/agents/pair", {"pairingToken": token, "name": "a"})).body["agentId"]
        assert await hints(frames, "agents") == {"agents": agent}
        assert (await owner.post(f"/v1/orgs/{{org}}/agents/{agent}/cordon")).status == 200
        assert await hints(frames, "agents") == {"agents": agent}


@pytest.mark.promise("P5")
async def test_nothing_of_another_organization_is_told(control: Control, owner: Caller, stranger: Caller) -> None:
    theirs = await published(stranger)
    async with Opened(control, owner, STREAM) as frames:
        assert (await frames.next())["event"] == "hello"
        await start(stranger, theirs)
        await stranger.put("/v1/orgs/{org}/settings", {})
        token = (await stranger.post("/v1/orgs/{org}/agents/pairing-tokens")).body["token"]
        agent = (await stranger.post("/v1/agents/pair", {"pairingToken": token, "name": "a"})).body["agentId"]
        await stranger.post(f"/v1/orgs/{{org}}/agents/{agent}/revoke")
        # The first that comes is the own one.
        await owner.post("/v1/orgs/{org}/sessions", {})
        assert (await frames.next())["event"] == "sessions"


@pytest.mark.promise("P6")
async def test_a_removed_member_is_cut_off_and_the_others_are_told(
    control: Control, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The heartbeat may not be what ends it.
    monkeypatch.setattr(org_stream, "HEARTBEAT_S", PATIENCE_S * 2)
    member = await control.join(owner)
    async with Opened(control, member, STREAM) as frames, Opened(control, owner, STREAM) as others:
        assert (await frames.next())["event"] == "hello"
        assert (await others.next())["event"] == "hello"
        assert (await owner.delete(f"/v1/orgs/{{org}}/members/{member.user_id}")).status == 200
        assert await frames.rest() == []
        assert await hints(others, "settings") == {"settings": None}


async def test_a_server_that_stops_ends_its_streams(control: Control, owner: Caller) -> None:
    async with Opened(control, owner, STREAM) as frames:
        assert (await frames.next())["event"] == "hello"
        control.plane.deps.stopping.set()
        assert await frames.rest() == []


@pytest.fixture
def watch(control: Control) -> OrgWatch:
    return OrgWatch(control.plane.deps, cast(TenantContext, SimpleNamespace(org_id=new_id())))


def news(watch: OrgWatch) -> Callable[[OrgNews], None]:
    return lambda told: watch.heard(msgspec.json.encode(told))


def test_what_a_slow_reader_has_not_taken_is_one_hint_per_kind(watch: OrgWatch) -> None:
    tell = news(watch)
    for number in range(10_000):
        tell(OrgNews("runs", str(number)))
        tell(OrgNews("agents", "the same"))
        tell(OrgNews("settings"))
    told = {hint.kind: hint.id for hint in watch.take()}
    # Several runs are named by none of them.
    assert told == {"runs": None, "agents": "the same", "settings": None}
    assert watch.take() == []


def test_after_a_gap_everything_may_have_changed(watch: OrgWatch) -> None:
    news(watch)(OrgNews("runs", "one"))
    watch.heard(None)
    assert {hint.kind: hint.id for hint in watch.take()} == dict.fromkeys(KINDS)
