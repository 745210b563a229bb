"""A run's events as they happen: no gap, no repeat, an end, and nobody who may not look."""

import asyncio

import asyncpg
import msgspec
import pytest
from tests.support.control import Caller, Control
from tests.support.run_steps import Stepping, published, start
from tests.support.run_stream import PATIENCE_S, Opened

from vespid.control import stream


@pytest.fixture
def stepping(superuser: "asyncpg.Connection") -> Stepping:
    return Stepping(superuser)


async def test_events_are_streamed_as_they_are_committed_and_the_terminal_one_ends_it(
    control: Control, owner: Caller, stepping: Stepping
) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started")
    async with Opened(control, owner, f"{path}/runs/{run['id']}/stream") as frames:
        assert frames.answer.status == 200
        assert frames.answer.content_type == "text/event-stream"
        first = await frames.next()
        assert (first["id"], first["event"]) == ("1", "run_started")
        shown = (await owner.get(f"{path}/runs/{run['id']}/events")).body["events"][0]
        assert msgspec.json.decode(first["data"]) == shown
        await stepping.append(run["id"], "node_started")
        assert (await frames.next())["id"] == "2"
        await stepping.append(run["id"], "node_succeeded", "run_succeeded")
        assert [frame["id"] for frame in await frames.rest()] == ["3", "4"]


async def test_a_reader_that_comes_back_goes_on_where_it_stopped(
    control: Control, owner: Caller, stepping: Stepping
) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started", "node_started", "node_succeeded", "run_succeeded")
    of = f"{path}/runs/{run['id']}/stream"
    async with Opened(control, owner, of, **{"Last-Event-ID": "2"}) as frames:
        assert [frame["id"] for frame in await frames.rest()] == ["3", "4"]
    async with Opened(control, owner, f"{of}?afterSeq=3") as frames:
        assert [frame["id"] for frame in await frames.rest()] == ["4"]
    for bad in ("x", "-1", "9" * 40):
        assert (await owner.get(of, headers={"Last-Event-ID": bad})).status == 400


async def test_a_browser_that_has_it_all_is_told_not_to_come_again(owner: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started", "run_succeeded")
    await stepping.be_at(run["id"], "succeeded", '{"s": "succeeded", "a": 1}')
    answer = await owner.get(f"{path}/runs/{run['id']}/stream", headers={"Last-Event-ID": "2"})
    assert answer.status == 204


async def test_no_event_is_missed_or_repeated_while_many_are_written(
    control: Control, owner: Caller, stepping: Stepping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REREAD_S", 0.01)
    monkeypatch.setattr(stream, "PAGE", 7)
    path = await published(owner)
    run = await start(owner, path)

    async def write() -> None:
        for _ in range(60):
            await stepping.append(run["id"], "node_started")
        await stepping.append(run["id"], "run_failed")

    async with Opened(control, owner, f"{path}/runs/{run['id']}/stream") as frames, asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        assert [int(frame["id"]) for frame in await frames.rest()] == list(range(1, 62))


@pytest.mark.promise("P6")
async def test_a_removed_member_is_cut_off(
    control: Control, owner: Caller, stepping: Stepping, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither the re-read nor a heartbeat may be what ends it.
    monkeypatch.setattr(stream, "REREAD_S", PATIENCE_S * 2)
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started")
    member = await control.join(owner)
    async with Opened(control, member, f"{path}/runs/{run['id']}/stream") as frames:
        assert (await frames.next())["id"] == "1"
        began = asyncio.get_running_loop().time()
        assert (await owner.delete(f"/v1/orgs/{{org}}/members/{member.user_id}")).status == 200
        assert await frames.rest() == []
        assert asyncio.get_running_loop().time() - began < 5


@pytest.mark.promise("P6")
async def test_a_logout_ends_the_streams_of_that_login(
    control: Control, owner: Caller, stepping: Stepping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REREAD_S", PATIENCE_S * 2)
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started")
    member = await control.join(owner)
    async with Opened(control, member, f"{path}/runs/{run['id']}/stream") as frames:
        assert (await frames.next())["id"] == "1"
        assert (await member.post("/v1/auth/logout")).status == 200
        assert await frames.rest() == []


async def test_a_server_that_stops_ends_its_streams(control: Control, owner: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started")
    async with Opened(control, owner, f"{path}/runs/{run['id']}/stream") as frames:
        assert (await frames.next())["id"] == "1"
        control.plane.deps.stopping.set()
        assert await frames.rest() == []
