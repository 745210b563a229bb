"""The shared connection: order, joined writes, errors, and what happens when Redis stops answering."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
import uvloop

from vespid.bus import scripts
from vespid.bus.connection import Connection
from vespid.bus.errors import BusReplyError, BusUnavailable


class Server(Protocol):
    """The fixture's server, as far as these tests touch it."""

    @property
    def url(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


@pytest.fixture
async def own(own_server: Server) -> AsyncIterator[Connection]:
    connection = Connection(own_server.url)
    await connection.start()
    yield connection
    await connection.stop()


async def until_answered(connection: Connection) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                await connection.call("PING")
                return
            except BusUnavailable:
                await asyncio.sleep(0.01)


async def until_lost(connection: Connection) -> None:
    async with asyncio.timeout(5):
        while connection.connected:
            await asyncio.gather(connection.call("PING"), return_exceptions=True)


async def test_concurrent_calls_get_their_own_replies(connection: Connection) -> None:
    replies = await asyncio.gather(*(connection.call("ECHO", f"m{i}") for i in range(500)))
    assert replies == [f"m{i}".encode() for i in range(500)]


async def test_of_commands_sent_together_the_last_reply_is_answered_and_later_calls_get_theirs(
    connection: Connection,
) -> None:
    each = connection.call_each([("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", "c")])
    replies = await asyncio.gather(each, connection.call("ECHO", "d"))
    assert replies == [b"c", b"d"]


def test_works_on_uvloop(redis_url: str) -> None:
    async def main() -> object:
        connection = Connection(redis_url)
        await connection.start()
        try:
            return await connection.call("ECHO", "hello")
        finally:
            await connection.stop()

    assert uvloop.run(main()) == b"hello"


async def test_one_bad_command_fails_only_its_caller(connection: Connection) -> None:
    good, bad, after = await asyncio.gather(
        connection.call("ECHO", "a"), connection.call("NOSUCH"), connection.call("ECHO", "b"), return_exceptions=True
    )
    assert (good, after) == (b"a", b"b")
    assert isinstance(bad, BusReplyError)


async def test_script_that_the_server_forgot_is_given_again(connection: Connection) -> None:
    await connection.call("SCRIPT", "FLUSH")
    sweep = scripts.load("sweep")
    assert await asyncio.gather(*(connection.run(sweep, "{o:x}:meta", 0) for _ in range(20))) == [[]] * 20


async def test_cancelled_caller_does_not_shift_the_replies(connection: Connection) -> None:
    given_up = connection.call("ECHO", "mine")
    given_up.cancel()
    assert await connection.call("ECHO", "next") == b"next"


async def test_fails_at_once_without_redis_and_recovers(own: Connection, own_server: Server) -> None:
    await own.call("PING")
    own_server.stop()
    await until_lost(own)
    began = time.monotonic()
    with pytest.raises(BusUnavailable):
        await own.call("PING")
    assert time.monotonic() - began < 0.1
    reconnected = asyncio.Event()
    own.on_reconnect.append(reconnected.set)
    own_server.start()
    async with asyncio.timeout(5):
        await reconnected.wait()
    await own.call("PING")


async def test_server_that_hangs_fails_calls_within_a_second(own: Connection, own_server: Server) -> None:
    await own.call("PING")
    os.kill(own_server.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(BusUnavailable):
            await own.call("PING")
        assert time.monotonic() - began < 1.0
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    await until_answered(own)


async def test_start_without_redis_returns_and_connects_later(own_server: Server) -> None:
    own_server.stop()
    connection = Connection(own_server.url)
    await connection.start()
    with pytest.raises(BusUnavailable):
        await connection.call("PING")
    own_server.start()
    await until_answered(connection)
    await connection.stop()
    await connection.stop()
