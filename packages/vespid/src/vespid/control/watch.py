"""Somebody who follows a stream: when to look again, and whether they may still look.

Whoever loses the membership is told by the control feed, so a follower is cut off within a second; nothing is asked of
the database while nobody's standing is in doubt.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import structlog

from vespid.bus.errors import BusError
from vespid.control.context import TenantContext
from vespid.control.deps import Deps
from vespid.store.connections import FeedRow

log = structlog.get_logger("vespid.control.watch")

# A comment goes out this often, so that proxies keep the connection and a dead client is noticed.
HEARTBEAT_S = 15.0
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Watch:
    """One follower, of what one channel of the bus tells."""

    def __init__(self, deps: Deps, tenant: TenantContext, channel: str) -> None:
        self._deps = deps
        self._tenant = tenant
        self._channel = channel
        # Set by a hint that something has moved, or that people have.
        self._woken = asyncio.Event()
        # The guard let the caller in before this began to listen.
        self._in_doubt = True

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear of the channel and of people for the length of a block."""
        async with contextlib.AsyncExitStack() as ways_out:
            if self._deps.feed is not None:
                ways_out.callback(self._deps.feed.listen(self._hear_feed))
            if self._deps.fanout is not None:
                try:
                    ways_out.push_async_callback(await self._deps.fanout.subscribe(self._channel, self._hear))
                except BusError as error:
                    log.debug("stream_without_hints", channel=self._channel, error=repr(error))
            yield

    async def wait(self, limit_s: float) -> None:
        """Until there may be something new, the server stops, or the time is over."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._deps.stopping, self._woken)]
        try:
            await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
        self._woken.clear()

    async def pause(self, s: float) -> None:
        """Let time pass, unless the server stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(s):
                await self._deps.stopping.wait()

    def wake(self) -> None:
        """Have `wait` return."""
        self._woken.set()

    def doubt(self) -> None:
        """Have `may_go_on` ask again."""
        self._in_doubt = True

    async def may_go_on(self) -> bool:
        """Whether the server goes on and the caller is still a member; asked again only where that is in doubt."""
        if self._deps.stopping.is_set():
            return False
        if not self._in_doubt:
            return True
        self._in_doubt = False
        return await self._deps.callers.may_stay(self._tenant.principal, self._tenant.org_id)

    def heard(self, message: bytes | None) -> None:
        """A message of the channel, or None after a gap. To be overridden by who wants more than to be woken."""

    def heard_feed(self, row: FeedRow) -> None:
        """A row of the control feed that concerns this organization or all. Likewise."""

    def _hear(self, message: bytes | None) -> None:
        self.heard(message)
        self.wake()

    def _hear_feed(self, row: FeedRow) -> None:
        if row.organization_id not in (None, UUID(self._tenant.org_id)):
            return
        self.heard_feed(row)
        # Executors come and go without anybody losing a membership.
        if not row.kind.startswith("executor_"):
            self._in_doubt = True
            self.wake()
