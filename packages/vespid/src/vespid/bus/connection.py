"""One connection to Redis that many callers share.

What callers ask for within one turn of the loop leaves as one write; replies come back in order and resolve the
callers' futures. No call has a timer of its own: while something is outstanding one watchdog looks every 100 ms
whether replies still arrive. When it is not connected a call fails at once, and the connection is made again behind it.
"""

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import hiredis

from vespid.bus.address import Address, Argument, pack
from vespid.bus.errors import BusReplyError, BusUnavailable
from vespid.bus.scripts import Script

# A reply as hiredis parses it: an integer, a bulk string, nil or an array of these.
Reply = int | bytes | None | list["Reply"]

STALL_S = 0.5
WATCH_S = 0.1
CONNECT_S = 0.5
RECONNECT_FIRST_S = 0.05
RECONNECT_CAP_S = 1.0
_MORE = object()


class Log(Protocol):
    """What is used of a structured logger."""

    def warning(self, event: str, **fields: object) -> object: ...
    def info(self, event: str, **fields: object) -> object: ...


@runtime_checkable
class _Transport(Protocol):
    """What is used of a transport; uvloop's are not asyncio's by inheritance."""

    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class _Wire(asyncio.Protocol):
    """One socket: commands out, replies in, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: Callable[[Exception | None], None]) -> None:
        self._loop = loop
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._transport: _Transport | None = None
        # Futures of the commands that have not been answered, oldest first; None: nobody asks for that reply.
        self._outstanding: deque[asyncio.Future[Reply] | None] = deque()
        # Packed commands of this turn of the loop.
        self._gathered: list[bytes] = []
        # Replies so far, and as of the watchdog's last look: equal for STALL_S means nothing moves.
        self._replies = 0
        self._replies_seen = 0
        self._still_looks = 0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, _Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        reader, outstanding = self._reader, self._outstanding
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                self._replies += 1
                future = outstanding.popleft()
                if future is None or future.done():
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    future.set_exception(BusReplyError(str(reply)))
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.close(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for future in self._outstanding:
            if future is not None and not future.done():
                future.set_exception(BusUnavailable("the connection to Redis was lost before it answered"))
        self._outstanding.clear()
        self._gathered.clear()
        self._lost(error)

    def send(self, packed: bytes, replies: int = 1) -> asyncio.Future[Reply]:
        """Commands that have so many replies between them, of which the last is answered."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(BusUnavailable("not connected to Redis"))
            return future
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered.append(packed)
        self._outstanding.extend((None,) * (replies - 1))
        self._outstanding.append(future)
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH_S, self._look)
        return future

    def flush(self) -> None:
        if self._transport is not None and self._gathered:
            self._transport.write(b"".join(self._gathered))
        self._gathered.clear()

    def _look(self) -> None:
        self._watch = None
        if not self._outstanding:
            self._still_looks = 0
            return
        self._still_looks = self._still_looks + 1 if self._replies == self._replies_seen else 0
        self._replies_seen = self._replies
        if self._still_looks * WATCH_S >= STALL_S:
            self.close(TimeoutError(f"no reply from Redis for {STALL_S} s"))
            return
        self._watch = self._loop.call_later(WATCH_S, self._look)

    def close(self, error: Exception | None = None) -> None:
        """Drop the socket; what is outstanding fails now."""
        transport = self._transport
        if transport is not None:
            self.connection_lost(error)
            transport.abort()


class Connection:
    """A `Service`: `start` returns when it has been connected once or has failed to; it keeps trying until `stop`."""

    def __init__(self, url: str, *, name: str = "vespid", log: Log | None = None) -> None:
        self._address = Address(url)
        self._name = name
        self._log = log
        self._wire: _Wire | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        # Called after each connection that replaced a lost one.
        self.on_reconnect: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        return self._wire is not None

    async def start(self) -> None:
        if self._keeper is not None:
            return
        first = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(first), name=f"redis {self._name}")
        await first.wait()

    async def stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        if self._wire is not None:
            self._wire.close()

    def call(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command. The future fails with `BusUnavailable` or `BusReplyError`."""
        return self._send(pack(command), 1)

    def call_each(self, commands: Sequence[tuple[Argument, ...]]) -> asyncio.Future[Reply]:
        """Send commands, one at least, whose replies but the last are not looked at; the future is of that one."""
        return self._send(b"".join(map(pack, commands)), len(commands))

    def _send(self, packed: bytes, replies: int) -> asyncio.Future[Reply]:
        wire = self._wire
        if wire is None:
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            future.set_exception(BusUnavailable("not connected to Redis"))
            return future
        return wire.send(packed, replies)

    def flush(self) -> None:
        """Write now what was to go at the end of this turn of the loop: for who gathers over a turn himself."""
        if self._wire is not None:
            self._wire.flush()

    async def run(self, script: Script, key: str, *arguments: Argument) -> Reply:
        """Run a script on the partition of `key`; a server that does not know it is given the source."""
        try:
            return await self.call("EVALSHA", script.digest, 1, key, *arguments)
        except BusReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self.call("EVAL", script.source, 1, key, *arguments)

    async def _keep(self, first: asyncio.Event) -> None:
        delay = RECONNECT_FIRST_S
        been_connected = False
        while True:
            self._broken.clear()
            try:
                async with asyncio.timeout(CONNECT_S):
                    wire = await self._connect()
            except (OSError, TimeoutError, BusUnavailable, BusReplyError) as error:
                if self._log is not None:
                    self._log.warning("redis unreachable", error=str(error) or type(error).__name__, client=self._name)
                first.set()
                await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311 - spreads reconnects, no secret
                delay = min(delay * 2, RECONNECT_CAP_S)
                continue
            self._wire = wire
            delay = RECONNECT_FIRST_S
            first.set()
            if been_connected:
                for notify in self.on_reconnect:
                    notify()
            been_connected = True
            await self._broken.wait()

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        address = self._address
        wire = _Wire(loop, self._on_lost)

        def protocol() -> _Wire:
            return wire

        if address.path is not None:
            await loop.create_unix_connection(protocol, address.path)
        else:
            await loop.create_connection(protocol, address.host, address.port, ssl=address.tls)
        try:
            greeting: Sequence[asyncio.Future[Reply]] = [
                wire.send(pack(command)) for command in address.greeting(self._name)
            ]
            await asyncio.gather(*greeting)
        except BaseException:
            wire.close()
            raise
        return wire

    def _on_lost(self, error: Exception | None) -> None:
        if self._log is not None and self._keeper is not None:
            self._log.warning("redis connection lost", error=str(error) if error else "closed", client=self._name)
        self._wire = None
        self._broken.set()
