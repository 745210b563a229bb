"""Overviews of organizations, counted once for all who look at the same time.

An overview is good for a while after it was counted, longer where counting took long, so that any number of open pages
costs a small part of one connection. What became of runs in a time that is past does not change any more, so of each
span of it that is counted once: only the newest spans are counted again.
"""

import asyncio
from collections import OrderedDict
from typing import Literal
from uuid import UUID

import msgspec

from vespid.store.overview import AgentCounts, QueueCounts, Span, count_agents, count_queue, count_spans
from vespid.store.pool import Database
from vespid_protocol.ids import OrgId

Window = Literal["1h", "24h", "7d"]
# How long a span is, and how many there are.
_MINUTE_MS = 60_000
SPANS: dict[Window, tuple[int, int]] = {
    "1h": (_MINUTE_MS, 60),
    "24h": (30 * _MINUTE_MS, 48),
    "7d": (180 * _MINUTE_MS, 56),
}
GOOD_FOR_S = 2.0
# Counting takes at most this part of the time.
SHARE = 0.05
# An end that was written by then may be committed a little later.
SETTLED_MS = 30_000
OVERVIEWS_KEPT = 1_000


class Overview(msgspec.Struct, frozen=True):
    """What was counted; each span with its start in epoch ms."""

    agents: AgentCounts
    queue: QueueCounts
    spans: list[tuple[int, Span]]


class _Kept:
    """One organization's, of one window."""

    def __init__(self) -> None:
        self.counting = asyncio.Lock()
        self.overview: Overview | None = None
        # The loop's time until which it is good.
        self.good_until = 0.0
        # By start: those that do not change any more.
        self.settled: dict[int, Span] = {}


class Overviews:
    """`await overviews.get(…)`; concurrent askers share one count."""

    def __init__(self, *, kept: int = OVERVIEWS_KEPT) -> None:
        self._most = kept
        # Least recently asked for first.
        self._kept: OrderedDict[tuple[OrgId, Window], _Kept] = OrderedDict()

    async def get(self, database: Database, org_id: OrgId, window: Window, *, now_ms: int, stale_ms: int) -> Overview:
        """What is and was in the organization. Raises what the store raises."""
        kept = self._kept.setdefault((org_id, window), _Kept())
        self._kept.move_to_end((org_id, window))
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        loop = asyncio.get_running_loop()
        async with kept.counting:
            if kept.overview is None or loop.time() >= kept.good_until:
                began = loop.time()
                kept.overview = await _count(kept, database, org_id, window, now_ms, stale_ms)
                took = loop.time() - began
                kept.good_until = loop.time() + max(GOOD_FOR_S, took / SHARE)
            return kept.overview


async def _count(
    kept: _Kept, database: Database, org_id: OrgId, window: Window, now_ms: int, stale_ms: int
) -> Overview:
    length_ms, count = SPANS[window]
    newest = now_ms - now_ms % length_ms
    starts = [newest - n * length_ms for n in reversed(range(count))]
    missing = [start for start in starts if start not in kept.settled]
    async with database.tenant(org_id) as connection:
        agents = await count_agents(connection, UUID(org_id), stale_ms)
        queue = await count_queue(connection, UUID(org_id))
        counted = await count_spans(connection, UUID(org_id), missing, length_ms)
    spans = kept.settled | dict(zip(missing, counted, strict=True))
    kept.settled = {start: spans[start] for start in starts if start + length_ms + SETTLED_MS <= now_ms}
    return Overview(agents, queue, [(start, spans[start]) for start in starts])
