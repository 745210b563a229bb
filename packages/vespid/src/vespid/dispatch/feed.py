"""The control feed as this process follows it: what changed elsewhere and must be known here within a second.

A hint on the bus makes it quick, and a read every half second makes it sure: with Redis away it is only slower.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from vespid.bus.channels import FEED
from vespid.bus.errors import BusError
from vespid.bus.ports import Fanout
from vespid.store.connections import FeedRow, read_feed
from vespid.store.pool import Database

log = structlog.get_logger("vespid.dispatch.feed")

POLL_S = 0.5
# Rows of so long ago are read again: one that committed late has a lower id than those already seen.
REREAD_MS = 15_000
# How many rows are remembered as seen; many more than a re-read finds.
_SEEN_MAX = 20_000

Listener = Callable[[FeedRow], None]


class ControlFeed:
    """Tells listeners of each row once. A Service."""

    def __init__(self, database: Database, fanout: Fanout | None, *, poll_s: float = POLL_S) -> None:
        self._database = database
        self._fanout = fanout
        self._poll_s = poll_s
        self._listeners: set[Listener] = set()
        # Ids already told, oldest first.
        self._seen: dict[int, None] = {}
        self._last_id = 0
        self._hint = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None

    async def start(self) -> None:
        """Follow from now on; what was before is nobody's news."""
        if self._follower is not None:
            return
        self._remember(await read_feed(self._database, 0, REREAD_MS))
        self._follower = asyncio.create_task(self._follow(), name="control-feed")

    async def stop(self) -> None:
        """Listeners hear no more."""
        if self._follower is not None:
            follower, self._follower = self._follower, None
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower
        if self._unsubscribe is not None:
            unsubscribe, self._unsubscribe = self._unsubscribe, None
            with contextlib.suppress(BusError):
                await unsubscribe()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with each new row, in the loop; it must not wait. Answers the way out."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def _follow(self) -> None:
        while True:
            if self._unsubscribe is None:
                await self._subscribe()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._hint.wait()
            self._hint.clear()
            try:
                rows = await read_feed(self._database, self._last_id, REREAD_MS)
            except Exception as error:  # noqa: BLE001 - Postgres may be away for a while; the next read finds it all
                log.warning("control_feed_unread", error=repr(error))
                continue
            for row in self._remember(rows):
                self._tell(row)

    async def _subscribe(self) -> None:
        if self._fanout is None:
            return
        try:
            self._unsubscribe = await self._fanout.subscribe(FEED, lambda _message: self._hint.set())
        except BusError as error:
            log.debug("control_feed_unsubscribed", error=repr(error))

    def _remember(self, rows: list[FeedRow]) -> list[FeedRow]:
        fresh = [row for row in rows if row.id not in self._seen]
        for row in fresh:
            self._seen[row.id] = None
            self._last_id = max(self._last_id, row.id)
        while len(self._seen) > _SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return fresh

    def _tell(self, row: FeedRow) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(row)
            except Exception:
                log.exception("control_feed_listener_failed", kind=row.kind)
