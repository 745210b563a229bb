"""Sessions whose client is at one gateway and whose host is at another, and which of them dies."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from tests.support.chat import Chat, new_member
from tests.support.installed import QUICK
from tests.support.organization import Organization
from tests.support.processes import SCRIPTED_AGENT, Processes, RunningProcess
from tests.support.soon import came_soon
from tests.support.split import Split
from tests.support.stage import Stage


@pytest_asyncio.fixture
async def split(processes: Processes) -> Split:
    """Two edges and a brain, which soon find out who is dead."""
    processes.env |= QUICK
    split = Split(processes)
    await split.start()
    return split


@pytest_asyncio.fixture
async def people(split: Split) -> AsyncIterator[Organization]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield await Organization.sign_up(split.processes, http)


async def host(people: Organization, split: Split, edge: str) -> tuple[RunningProcess, str]:
    """An agent of that edge."""
    return await people.pair(edge, "--gateway-ws-url", split.host_url(edge), program=SCRIPTED_AGENT)


@pytest.mark.promise("P8")
async def test_a_turn_goes_on_without_a_brain_and_the_next_is_placed_by_another(
    people: Organization, split: Split, tmp_path: Path
) -> None:
    await host(people, split, "right")
    chat = await Chat.begin(people)
    client = await chat.joined(url=split.url("left"))
    stage = Stage(tmp_path)
    first = await chat.do({"say": "before "}, *stage.steps(), {"say": "after"})
    assert (await client.next("agent_delta"))["content"] == "before "
    await stage.begun()
    await split.brains[0].kill()
    stage.go_on()
    assert (await client.next("agent_delta", 2))["content"] == "after"
    assert (await client.next("agent_final"))["content"] == "before after" == await chat.told(first)
    second = await chat.do({"say": "placed"})
    await client.event(second)
    await split.start_brain()
    assert await chat.told(second) == "placed"
    assert await stage.begun() == [f"{chat.id}:turn:{first}:1"]


@pytest.mark.promise("P8")
async def test_a_client_whose_edge_dies_goes_on_at_another_without_a_gap_or_a_repeat(
    people: Organization, split: Split, tmp_path: Path
) -> None:
    await host(people, split, "right")
    chat = await Chat.begin(people)
    client = await chat.joined(url=split.url("left"))
    await chat.ask({"say": "one"})
    stage = Stage(tmp_path)
    seq = await chat.do({"say": "so far "}, *stage.steps(), {"tool": "t"}, {"say": "and on"})
    await client.event(seq)
    await stage.begun()
    await split.edge("left").kill()
    await client.closed()
    seen = client.seqs()
    again = await chat.joined(seen[-1], url=split.url("right"))
    assert (await again.next("agent_delta"))["content"] == "so far "
    stage.go_on()
    assert (await again.next("agent_final"))["content"] == "so far and on"
    events = await chat.events()
    assert seen + again.seqs() == [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert await stage.begun() == [f"{chat.id}:turn:{seq}:1"]


@pytest.mark.promise("P8")
async def test_a_turn_whose_hosts_edge_dies_is_answered_once(
    people: Organization, split: Split, tmp_path: Path
) -> None:
    await host(people, split, "right")
    chat = await Chat.begin(people)
    client = await chat.joined(url=split.url("left"))
    await chat.ask({"say": "one"})
    stage = Stage(tmp_path)
    seq = await chat.do({"say": "so far "}, *stage.steps(), {"say": "and on"})
    await stage.begun()
    await split.edge("right").kill()
    await split.start_edge("right")
    await people.processes.running("right")[0].has_printed("welcomed")
    stage.go_on()
    assert await chat.told(seq) == "so far and on"
    await client.next("agent_final", 2)
    assert (await chat.kinds()).count("agent_final") == 2
    assert client.seqs() == list(range(1, len(await chat.events()) + 1))
    # It was its turn all the time, or it was given it anew: never twice under one name.
    assert len(set(stage.tries())) == len(stage.tries())


@pytest.mark.promise("P8")
async def test_a_session_whose_hosts_edge_stays_away_goes_to_a_host_of_the_other(
    people: Organization, split: Split, tmp_path: Path
) -> None:
    await host(people, split, "right")
    chat = await Chat.begin(people)
    await chat.ask({"say": "one"}, {"remember": "MEMORY.md", "content": "two"})
    stage = Stage(tmp_path)
    seq = await chat.do(*stage.steps(), {"recall": "MEMORY.md"})
    await stage.begun()
    _, other = await host(people, split, "left")
    await split.edge("right").kill()
    await stage.begun(2)
    stage.go_on()
    assert await chat.told(seq) == "two"
    event = await chat.has("session_executor_failover")
    assert event["payload"]["to"]["executorId"] == other


@pytest.mark.promise("P6")
async def test_a_revoked_host_and_a_removed_member_are_cut_off_on_every_edge(
    people: Organization, split: Split, tmp_path: Path
) -> None:
    own, own_id = await host(people, split, "right")
    chat = await Chat.begin(people)
    member, user_id = await new_member(people, people.http)
    theirs = Chat(member, await chat.session())
    clients = [await theirs.joined(url=split.url(edge)) for edge in ("left", "right")]
    ours = await chat.joined(url=split.url("left"))
    stage = Stage(tmp_path)
    seq = await chat.do({"say": "for all "}, *stage.steps(), {"say": "by another"})
    await stage.begun()
    _, other = await host(people, split, "left")

    began = time.monotonic()
    await people.call("DELETE", f"/v1/orgs/{{org}}/members/{user_id}", status=200)
    assert [await client.closed() for client in clients] == [4403, 4403]
    came_soon("removed member cut off on two edges", began)

    began = time.monotonic()
    await people.call("POST", f"/v1/orgs/{{org}}/agents/{own_id}/revoke", status=200)
    await stage.begun(2)
    came_soon("revoked host replaced at another edge", began)
    stage.go_on()
    assert await own.wait() != 0
    await ours.next("agent_final")
    assert await chat.told(seq) == "for all by another"
    assert (await chat.session())["pinnedExecutorId"] == other
    assert [client.count("agent_final") for client in clients] == [0, 0]
