"""Mail and fan-out: one suite over the way through Redis and the shortcut within a process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Protocol

import msgspec
import pytest

from vespid.bus import messages
from vespid.bus.connection import Connection
from vespid.bus.errors import BusUnavailable
from vespid.bus.fanout import RedisFanout
from vespid.bus.mail import Neighbours, RedisMail
from vespid.bus.messages import AnyMessage, CancelOrder, FeedHint, Offer
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

HERE, THERE = ProcessId("here"), ProcessId("there")


class Server(Protocol):
    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Pair:
    """Two processes' ends of the bus."""

    def __init__(self, here: RedisMail, there: RedisMail, speak: RedisFanout, listen: RedisFanout) -> None:
        self.here, self.there, self.speak, self.listen = here, there, speak, listen


@pytest.fixture(params=["through redis", "in process"])
async def pair(request: pytest.FixtureRequest, redis_url: str, connection: Connection) -> AsyncIterator[Pair]:
    shared = Neighbours() if request.param == "in process" else None
    here = RedisMail(connection, redis_url, HERE, neighbours=shared)
    there = RedisMail(connection, redis_url, THERE, neighbours=shared)
    speak = RedisFanout(connection, redis_url)
    listen = speak if shared is not None else RedisFanout(connection, redis_url)
    services = (here, there, speak, listen)
    for service in services:
        await service.start()
    yield Pair(here, there, speak, listen)
    for service in services:
        await service.stop()


def order(number: int) -> CancelOrder:
    return CancelOrder(RequestId(f"r{number}"), ExecutorId("x"), number, "why")


async def gather(batches: AsyncIterator[Sequence[AnyMessage]], count: int) -> list[AnyMessage]:
    got: list[AnyMessage] = []
    async with asyncio.timeout(5):
        while len(got) < count:
            got += await anext(batches)
    return got


async def test_mail_arrives_in_the_order_it_was_sent(pair: Pair) -> None:
    for i in range(300):
        await pair.here.send(THERE, order(i))
    assert await gather(pair.there.receive(), 300) == [order(i) for i in range(300)]


async def test_mail_to_ourselves_arrives(pair: Pair) -> None:
    await pair.here.send(HERE, order(1))
    assert await gather(pair.here.receive(), 1) == [order(1)]


async def test_mail_to_a_process_that_has_left_is_kept_in_redis_for_a_while(
    redis_url: str, connection: Connection
) -> None:
    shared = Neighbours()
    here = RedisMail(connection, redis_url, HERE, neighbours=shared)
    there = RedisMail(connection, redis_url, THERE, neighbours=shared)
    await there.start()
    await there.stop()
    await here.send(THERE, order(1))
    assert await connection.call("LLEN", "{i:there}:inbox") == 1
    kept_ms = await connection.call("PTTL", "{i:there}:inbox")
    assert isinstance(kept_ms, int)
    assert 0 < kept_ms <= 60_000


async def test_mail_waits_for_a_reader(pair: Pair) -> None:
    receiving = asyncio.ensure_future(gather(pair.there.receive(), 1))
    await asyncio.sleep(0)
    await pair.here.send(THERE, order(1))
    assert await receiving == [order(1)]


async def test_every_wake_reaches_exactly_one_consumer(pair: Pair) -> None:
    seen: list[str] = []
    complete = asyncio.Event()

    async def consume(mail: RedisMail) -> None:
        async with aclosing(mail.wakes("runs")) as batches:
            async for batch in batches:
                seen.extend(batch)
                if len(seen) >= 200:
                    complete.set()

    async with asyncio.TaskGroup() as group:
        consumers = [group.create_task(consume(mail)) for mail in (pair.here, pair.there)]
        for i in range(200):
            pair.here.wake("runs", f"run-{i}")
            if i % 7 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await complete.wait()
        for consumer in consumers:
            consumer.cancel()
    assert sorted(seen) == sorted(f"run-{i}" for i in range(200))


async def test_burst_of_equal_wakes_is_one(pair: Pair) -> None:
    for _ in range(50):
        pair.here.wake("runs", "same")
    pair.here.wake("runs", "last")
    async with aclosing(pair.there.wakes("runs")) as batches, asyncio.timeout(5):
        got = list(await anext(batches))
        while "last" not in got:
            got += await anext(batches)
    assert got == ["same", "last"]


async def test_wakes_not_looked_at_are_left_to_others(pair: Pair) -> None:
    async with asyncio.timeout(5):
        async with aclosing(pair.here.wakes("runs")) as batches:
            for i in range(300):
                pair.here.wake("runs", f"run-{i}")
            seen = list(await anext(batches))
        async with aclosing(pair.there.wakes("runs")) as batches:
            while len(seen) < 300:
                seen += await anext(batches)
    assert len(set(seen)) == 300


async def test_publication_reaches_each_subscriber_once(pair: Pair) -> None:
    heard: list[list[bytes | None]] = [[], []]
    complete = asyncio.Event()

    def listener(mine: list[bytes | None]) -> None:
        def hear(data: bytes | None) -> None:
            mine.append(data)
            if all(len(each) == 100 for each in heard):
                complete.set()

        leaves.append(hear)

    leaves: list[object] = []
    for mine in heard:
        listener(mine)
    outs = [await pair.listen.subscribe("{run:1}", hear) for hear in leaves]  # type: ignore[arg-type]
    for i in range(100):
        pair.speak.publish("{run:1}", f"{i}".encode())
        pair.speak.publish("{run:2}", b"not ours")
    async with asyncio.timeout(5):
        await complete.wait()
    assert heard == [[f"{i}".encode() for i in range(100)]] * 2
    for out in outs:
        await out()


async def test_who_left_hears_nothing_and_may_come_back(pair: Pair) -> None:
    first: list[bytes | None] = []
    second: asyncio.Queue[bytes | None] = asyncio.Queue()
    leave = await pair.listen.subscribe("{run:1}", first.append)
    await leave()
    await pair.listen.subscribe("{run:1}", second.put_nowait)
    pair.speak.publish("{run:1}", b"hello")
    async with asyncio.timeout(5):
        assert await second.get() == b"hello"
    assert first == []


async def test_one_failing_listener_does_not_deafen_the_others(pair: Pair) -> None:
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()

    def broken(_: bytes | None) -> None:
        raise ValueError("listener's own fault")

    await pair.listen.subscribe("{run:1}", broken)
    await pair.listen.subscribe("{run:1}", heard.put_nowait)
    pair.speak.publish("{run:1}", b"hello")
    async with asyncio.timeout(5):
        assert await heard.get() == b"hello"


async def test_unreadable_mail_is_skipped(connection: Connection, redis_url: str) -> None:
    mail = RedisMail(connection, redis_url, HERE)
    await connection.call("RPUSH", "{i:here}:inbox", b"\xff not json", messages.encode(order(1)))
    await mail.start()
    assert await gather(mail.receive(), 1) == [order(1)]
    await mail.stop()


async def test_lost_connection_is_told_as_a_gap(own_server: Server) -> None:
    async with AsyncExitStack() as stack:
        connection = Connection(own_server.url)
        mail = RedisMail(connection, own_server.url, HERE)
        fanout = RedisFanout(connection, own_server.url)
        for service in (connection, mail, fanout):
            await service.start()
            stack.push_async_callback(service.stop)
        heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        await fanout.subscribe("{run:1}", heard.put_nowait)
        batches = mail.receive()
        own_server.stop()
        async with asyncio.timeout(5):
            while connection.connected:
                await asyncio.gather(connection.call("PING"), return_exceptions=True)
        with pytest.raises(BusUnavailable):
            await mail.send(THERE, FeedHint("revoke"))
        own_server.start()
        async with asyncio.timeout(10):
            assert await heard.get() is None
            assert await anext(batches) == ()


async def test_neighbours_hear_each_other_without_redis(own_server: Server) -> None:
    async with AsyncExitStack() as stack:
        connection = Connection(own_server.url)
        mail = RedisMail(connection, own_server.url, HERE)
        fanout = RedisFanout(connection, own_server.url)
        own_server.stop()
        for service in (connection, mail, fanout):
            await service.start()
            stack.push_async_callback(service.stop)
        heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        await fanout.subscribe("{run:1}", heard.put_nowait)
        fanout.publish("{run:1}", b"hello")
        await mail.send(HERE, order(1))
        async with asyncio.timeout(5):
            assert await heard.get() == b"hello"
            assert await gather(mail.receive(), 1) == [order(1)]


def test_messages_come_back_as_they_went() -> None:
    offer = Offer(
        RequestId("r"), OrgId("o"), ExecutorId("x"), 3, 17, create=msgspec.Raw(b'{"payload":{"a":1}}'), reply_to=HERE
    )
    back = messages.decode(messages.encode(offer))
    assert isinstance(back, Offer)
    assert (back.request_id, back.connection_epoch, back.reply_to) == ("r", 3, HERE)
    assert isinstance(back.create, msgspec.Raw)
    assert bytes(back.create) == b'{"payload":{"a":1}}'
    bare = messages.decode(messages.encode(Offer(RequestId("r"), OrgId("o"), ExecutorId("x"), 3)))
    assert isinstance(bare, Offer)
    assert bare.create is msgspec.UNSET


async def idle_consumer(mail: RedisMail, neighbours: Neighbours) -> "asyncio.Task[Sequence[str]]":
    """Somebody who waits for the next batch, and has looked into Redis in vain."""

    async def first() -> Sequence[str]:
        async with aclosing(mail.wakes("runs")) as batches:
            return await anext(batches)

    waiting = asyncio.create_task(first())
    while not any(inbox.idle for inbox in neighbours.consumers.get("runs", ())):
        await asyncio.sleep(0)
    return waiting


async def queued(connection: Connection) -> list[bytes]:
    found = await connection.call("LRANGE", "{w:runs}:wakes", 0, -1)
    assert isinstance(found, list)
    return [item for item in found if isinstance(item, bytes)]


async def test_wake_goes_to_who_is_idle_here_without_redis(redis_url: str) -> None:
    neighbours = Neighbours()
    # What is not told here is told nobody.
    nowhere = Connection("redis://127.0.0.1:1/0")
    mail = RedisMail(nowhere, redis_url, HERE, neighbours=neighbours)
    waiting = await idle_consumer(mail, neighbours)
    mail.wake("runs", "run-1")
    async with asyncio.timeout(5):
        assert await waiting == ["run-1"]


async def test_a_long_burst_is_shared_with_other_processes(connection: Connection) -> None:
    neighbours = Neighbours()
    mail = RedisMail(connection, "redis://127.0.0.1:1/0", HERE, neighbours=neighbours)
    waiting = await idle_consumer(mail, neighbours)
    for n in range(33):
        mail.wake("runs", f"run-{n}")
    await connection.call("PING")
    assert len(await queued(connection)) == 33
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_wake_after_the_last_consumer_left_is_kept_for_others(connection: Connection, redis_url: str) -> None:
    neighbours = Neighbours()
    mail = RedisMail(connection, redis_url, HERE, neighbours=neighbours)
    waiting = await idle_consumer(mail, neighbours)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert neighbours.consumers["runs"] == []
    mail.wake("runs", "run-1")
    await connection.call("PING")
    assert await queued(connection) == [b"run-1"]


async def test_only_so_many_wakes_are_kept_the_newest(
    connection: Connection, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vespid.bus.mail.WAKES_KEPT", 10)
    mail = RedisMail(connection, redis_url, HERE)
    for n in range(30):
        mail.wake("runs", f"run-{n}")
    await connection.call("PING")
    assert await queued(connection) == [b"run-%d" % n for n in range(20, 30)]


async def test_what_a_leaving_consumer_held_is_left_to_others(
    connection: Connection, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vespid.bus.mail.BATCH", 5)
    neighbours = Neighbours()
    mail = RedisMail(connection, redis_url, HERE, neighbours=neighbours)
    waiting = await idle_consumer(mail, neighbours)
    for n in range(20):
        mail.wake("runs", f"run-{n}")
    async with asyncio.timeout(5):
        assert await waiting == [f"run-{n}" for n in range(5)]
    await connection.call("PING")
    assert await queued(connection) == [b"run-%d" % n for n in range(5, 20)]


async def test_mail_that_is_handed_over_arrives_within_the_call_and_other_mail_by_the_inbox(
    connection: Connection, redis_url: str
) -> None:
    shared = Neighbours()
    near = RedisMail(connection, redis_url, HERE, neighbours=shared)
    there = RedisMail(connection, redis_url, THERE, neighbours=shared)
    far = RedisMail(connection, redis_url, ProcessId("far"))
    services = (near, there, far)
    for service in services:
        await service.start()
    taken: list[AnyMessage] = []
    there.hand_over(taken.append)
    await near.send(THERE, order(1))
    assert taken == [order(1)]
    await far.send(THERE, order(2))
    assert await gather(there.receive(), 1) == [order(2)]
    assert taken == [order(1)]
    for service in services:
        await service.stop()
