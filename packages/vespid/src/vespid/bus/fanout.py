"""Channels: who listens now hears it. Through sharded pub/sub where the server has it, else plain.

Subscribers in the publishing process hear it directly; the echo from Redis is known by its origin and dropped. Whatever
is missed while the connection is away is told as a gap (`None`) once it is back, so that the truth is read again.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from functools import partial

from prometheus_client import Counter

from vespid.bus.address import Address, Argument
from vespid.bus.connection import CONNECT_S, RECONNECT_CAP_S, RECONNECT_FIRST_S, Connection, Log, Reply
from vespid.bus.errors import BusError
from vespid.bus.line import Line
from vespid.bus.mail import LOST

Hear = Callable[[bytes | None], None]

QUIET_S = 5.0
CONFIRM_S = 0.5
_ORIGIN_BYTES = 8

FAILED_LISTENERS = Counter("vespid_bus_failed_listeners_total", "Listeners of a channel that raised.")


class RedisFanout:
    """`ports.Fanout`, and a `Service`. It publishes over the shared connection and listens on one of its own."""

    def __init__(self, connection: Connection, url: str, *, log: Log | None = None) -> None:
        self._connection = connection
        self._address = Address(url)
        self._log = log
        self._origin = os.urandom(_ORIGIN_BYTES)
        self._listeners: dict[bytes, list[Hear]] = {}
        # Channels that the server has confirmed, on the connection of now.
        self._confirmed: set[bytes] = set()
        self._confirmations: dict[bytes, asyncio.Event] = {}
        # Subscriptions asked for and not answered yet: only the last answer tells of the state we want.
        self._asked: dict[bytes, int] = {}
        # What was published in this turn of the loop.
        self._published: list[tuple[bytes, bytes]] = []
        self._line: Line | None = None
        self._keeper: asyncio.Task[None] | None = None
        # b"S" before the command names where the server knows sharded pub/sub.
        self._sharded = True

    @property
    def connected(self) -> bool:
        """Whether publications of other processes are being heard."""
        return self._line is not None

    async def start(self) -> None:
        """Returns when it has been connected once or has failed to; it keeps trying."""
        if self._keeper is not None:
            return
        first = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(first), name="redis fanout")
        await first.wait()

    async def stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def publish(self, channel: str, data: bytes) -> None:
        """Tell all who listen. Never waits, may be lost; a burst goes as one write."""
        if not self._published:
            asyncio.get_running_loop().call_soon(self._tell_near)
        self._published.append((channel.encode(), data))

    async def listeners(self, channel: str) -> int:
        """How many processes are connected and listen, ourselves included. Raises `BusUnavailable`."""
        reply = await self._connection.call("PUBSUB", "SHARDNUMSUB" if self._sharded else "NUMSUB", channel)
        return reply[1] if isinstance(reply, list) and isinstance(reply[1], int) else 0

    async def subscribe(self, channel: str, hear: Hear) -> Callable[[], Awaitable[None]]:
        """Call `hear` with each message, and with None after a gap. Returns once subscribed, with the way out.

        While Redis is away it returns as well: neighbours are heard, and the gap is told when it is back.
        """
        name = channel.encode()
        self._listeners.setdefault(name, []).append(hear)
        if name not in self._confirmed and self._line is not None:
            confirmation = self._confirmations.get(name)
            if confirmation is None:
                confirmation = self._confirmations[name] = asyncio.Event()
                self._enter(name)
            try:
                async with asyncio.timeout(CONFIRM_S):
                    await confirmation.wait()
            except TimeoutError:
                if self._log is not None:
                    self._log.warning("subscription not confirmed in time", channel=channel)

        async def leave() -> None:
            self._leave(name, hear)

        return leave

    def _tell_near(self) -> None:
        published, self._published = self._published, []
        for name, data in published:
            if name in self._listeners:
                self._tell(name, data)
        # Behind what the listeners here have written meanwhile: who is near need not wait for Redis to be written to.
        asyncio.get_running_loop().call_soon(self._tell_far, published)

    def _tell_far(self, published: list[tuple[bytes, bytes]]) -> None:
        command = "SPUBLISH" if self._sharded else "PUBLISH"
        commands: list[tuple[Argument, ...]] = [(command, name, self._origin + data) for name, data in published]
        self._connection.call_each(commands).add_done_callback(partial(_count_lost, len(commands)))

    def _leave(self, name: bytes, hear: Hear) -> None:
        listeners = self._listeners.get(name, [])
        if hear not in listeners:
            return
        listeners.remove(hear)
        if not listeners:
            del self._listeners[name]
            self._confirmed.discard(name)
            self._confirmations.pop(name, None)
            self._write("UNSUBSCRIBE", name)

    def _enter(self, name: bytes) -> None:
        self._asked[name] = self._asked.get(name, 0) + 1
        self._write("SUBSCRIBE", name)

    def _write(self, command: str, *names: bytes) -> None:
        if self._line is not None:
            self._line.write(f"S{command}" if self._sharded else command, *names)

    def _tell(self, name: bytes, data: bytes | None) -> None:
        for hear in tuple(self._listeners.get(name, ())):
            try:
                hear(data)
            except Exception as error:  # noqa: BLE001 - one listener's fault must not deafen the others
                FAILED_LISTENERS.inc()
                if self._log is not None:
                    self._log.warning("listener failed", channel=name.decode(), error=repr(error))

    async def _keep(self, first: asyncio.Event) -> None:
        delay = RECONNECT_FIRST_S
        while True:
            try:
                line = await Line.open(self._address, "vespid-fanout", CONNECT_S)
                try:
                    async with asyncio.timeout(CONNECT_S):
                        known = await line.ask("COMMAND", "INFO", "SSUBSCRIBE")
                    self._sharded = isinstance(known, list) and bool(known) and known[0] is not None
                    delay = RECONNECT_FIRST_S
                    self._line = line
                    for name in self._listeners:
                        self._enter(name)
                    first.set()
                    await self._listen(line)
                finally:
                    self._line = None
                    self._confirmed.clear()
                    self._confirmations.clear()
                    self._asked.clear()
                    line.close()
            except (BusError, TimeoutError) as error:
                if self._log is not None:
                    self._log.warning("redis fanout lost", error=str(error) or "no answer")
            first.set()
            await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311 - spreads reconnects, no secret
            delay = min(delay * 2, RECONNECT_CAP_S)

    async def _listen(self, line: Line) -> None:
        # Channels whose listeners were there before this connection: they hear of the gap once we listen again.
        missed = set(self._listeners)
        quiet = 0
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    push = await line.read()
            except TimeoutError:
                quiet += 1
                if quiet == 2:
                    raise
                line.write("PING")
                continue
            quiet = 0
            self._heard(push, missed)
            # What has come along with it, without a timer for each.
            while (more := line.parsed()) is not None:
                self._heard(more, missed)

    def _heard(self, push: Reply, missed: set[bytes]) -> None:
        if not isinstance(push, list) or len(push) != 3:
            return  # the answer to a PING
        kind, name, data = push
        if not isinstance(name, bytes):
            return
        if kind in (b"smessage", b"message") and isinstance(data, bytes):
            if not data.startswith(self._origin):
                self._tell(name, data[_ORIGIN_BYTES:])
        elif kind in (b"ssubscribe", b"subscribe"):
            self._confirm(name, missed)

    def _confirm(self, name: bytes, missed: set[bytes]) -> None:
        self._asked[name] -= 1
        if self._asked[name] > 0:
            return
        del self._asked[name]
        if name not in self._listeners:
            return
        self._confirmed.add(name)
        confirmation = self._confirmations.pop(name, None)
        if confirmation is not None:
            confirmation.set()
        if name in missed:
            missed.discard(name)
            self._tell(name, None)


def _count_lost(count: int, call: asyncio.Future[Reply]) -> None:
    # Reading the exception is what keeps the loop from reporting it; a lost publication is expected and counted.
    if not call.cancelled() and call.exception() is not None:
        LOST.labels("publication").inc(count)
