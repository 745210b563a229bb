"""Inboxes of processes, and queues from which one process takes each item.

A message to a process in this very interpreter takes no trip through Redis: it is put into its inbox, or handed over
within the call where the process said to whom; likewise a wake when a consumer of the queue is idle here. The rest goes
through lists, read in batches by a blocking connection. Redis may lose any of it: a sweep over Postgres finds what was
meant.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec
from prometheus_client import Counter

from vespid.bus import messages
from vespid.bus.connection import Connection, Log, Reply
from vespid.bus.inbox import Inbox
from vespid.bus.messages import AnyMessage
from vespid.bus.puller import Puller
from vespid_protocol.ids import ProcessId

BATCH = 128
# A longer burst is shared with the other processes, whoever is idle here.
NEAR_WAKES = 32
# An inbox that nobody empties for so long belongs to a dead process.
INBOX_KEPT_MS = 60_000
# More wakes than this mean that nobody listens; the sweep will find the rest.
WAKES_KEPT = 50_000

UNREADABLE = Counter("vespid_bus_unreadable_messages_total", "Messages in an inbox that could not be decoded.")
LOST = Counter("vespid_bus_lost_notices_total", "Wakes and publications that Redis did not take.", ["what"])


class Neighbours:
    """The inboxes and queue consumers of one interpreter; services that share it share the shortcut."""

    def __init__(self) -> None:
        self.inboxes: dict[ProcessId, Callable[[AnyMessage], None]] = {}
        self.consumers: dict[str, list[Inbox[str]]] = {}


class RedisMail:
    """`ports.Mail`, and a `Service`. Without neighbours of its own it only knows itself."""

    def __init__(
        self,
        connection: Connection,
        url: str,
        process_id: ProcessId,
        *,
        neighbours: Neighbours | None = None,
        log: Log | None = None,
    ) -> None:
        self._connection = connection
        self._url = url
        self._process_id = process_id
        self._neighbours = neighbours or Neighbours()
        self._log = log
        self._inbox: Inbox[AnyMessage] = Inbox(BATCH)
        # Where messages from this interpreter go.
        self._near: Callable[[AnyMessage], None] = self._put
        self._puller: Puller | None = None
        # Wakes of this turn of the loop, by queue, in order, each once.
        self._woken: dict[str, dict[str, None]] = {}

    async def start(self) -> None:
        """From here on messages are taken out of Redis."""
        if self._puller is not None:
            return
        self._neighbours.inboxes[self._process_id] = self._take_near
        self._puller = Puller(
            self._url,
            _inbox_key(self._process_id),
            batch=BATCH,
            wanted=self._inbox.wanted,
            take=self._take,
            gap=self._inbox.gap,
            log=self._log,
        )
        await self._puller.start()

    async def stop(self) -> None:
        """No more messages arrive; who iterates is not disturbed."""
        puller, self._puller = self._puller, None
        if puller is None:
            return
        del self._neighbours.inboxes[self._process_id]
        await puller.stop()

    async def send(self, to: ProcessId, message: AnyMessage) -> bool:
        """Put a message into a process's inbox. Raises `BusUnavailable` when it is elsewhere and Redis is away.

        True: it was taken out at once. False: it lies there, its reader is busy, or gone.
        """
        near = self._neighbours.inboxes.get(to)
        if near is not None:
            near(message)
            return True
        key = _inbox_key(to)
        pushed = self._connection.call("RPUSH", key, messages.encode(message))
        kept = self._connection.call("PEXPIRE", key, INBOX_KEPT_MS)
        # A reader that waits is served before the next command, so that there is nothing left to keep.
        _, lies_there = await asyncio.gather(pushed, kept)
        return lies_there == 0

    def hand_over(self, take: Callable[[AnyMessage], None]) -> None:
        """Messages from this interpreter go to `take` within the sender's call; `receive` still has all others."""
        self._near = take

    def receive(self) -> AsyncIterator[Sequence[AnyMessage]]:
        """Messages to this process, in batches. An empty batch: some may have been lost, look at the truth."""
        return self._inbox.batches()

    def wake(self, queue: str, item: str) -> None:
        """Let one process know that `item` is due."""
        if not self._woken:
            asyncio.get_running_loop().call_soon(self._flush)
        self._woken.setdefault(queue, {})[item] = None

    async def wakes(self, queue: str) -> AsyncGenerator[Sequence[str], None]:
        """Items for this process, in batches. An empty batch: some may have been lost, sweep now.

        Close the iterator (`contextlib.aclosing`) to leave; what was not looked at is left to the others.
        """
        inbox: Inbox[str] = Inbox(BATCH)
        puller = Puller(
            self._url,
            _queue_key(queue),
            batch=BATCH,
            wanted=inbox.wanted,
            take=lambda items: inbox.put([item.decode() for item in dict.fromkeys(items)]),
            gap=inbox.gap,
            log=self._log,
        )
        consumers = self._neighbours.consumers.setdefault(queue, [])
        consumers.append(inbox)
        await puller.start()
        try:
            async for batch in inbox.batches():
                yield batch
        finally:
            consumers.remove(inbox)
            await puller.stop()
            for item in inbox.drain():
                self.wake(queue, item)

    def _flush(self) -> None:
        woken, self._woken = self._woken, {}
        for queue, items in woken.items():
            idle = next((near for near in self._neighbours.consumers.get(queue, ()) if near.idle), None)
            if idle is not None and len(items) <= NEAR_WAKES:
                idle.put(list(items))
                continue
            key = _queue_key(queue)
            self._connection.call("RPUSH", key, *items).add_done_callback(_count_lost)
            self._connection.call("LTRIM", key, -WAKES_KEPT, -1).add_done_callback(_count_lost)

    def _take_near(self, message: AnyMessage) -> None:
        self._near(message)

    def _put(self, message: AnyMessage) -> None:
        self._inbox.put((message,))

    def _take(self, pushed: Sequence[bytes]) -> None:
        read: list[AnyMessage] = []
        for data in pushed:
            try:
                read.append(messages.decode(data))
            except msgspec.DecodeError as error:
                UNREADABLE.inc()
                if self._log is not None:
                    self._log.warning("unreadable message in inbox", error=str(error))
        self._inbox.put(read)


def _inbox_key(process_id: ProcessId) -> str:
    return f"{{i:{process_id}}}:inbox"


def _queue_key(queue: str) -> str:
    return f"{{w:{queue}}}:wakes"


def _count_lost(call: asyncio.Future[Reply]) -> None:
    # Reading the exception is what keeps the loop from reporting it; that a wake is lost is expected and counted.
    if not call.cancelled() and call.exception() is not None:
        LOST.labels("wake").inc()
