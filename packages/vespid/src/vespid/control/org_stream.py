"""What changes in an organization, as hints: server-sent events that say of which kind it was, and nothing of it.

A page that shows the organization reads again what a hint names, so that it need not ask every second. Hints may be
lost; a client that connects begins by reading everything, and one that was told of a gap does it again. What waits to
be sent is one hint per kind, however slow the reader.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.response import Stream

from vespid.bus.channels import org_channel
from vespid.bus.org_news import NewsKind, decode
from vespid.control.context import TenantContext, org_member
from vespid.control.deps import Deps
from vespid.control.watch import HEARTBEAT_S, STREAM_HEADERS, Watch
from vespid.control.wire import iso
from vespid.store.connections import FeedRow

# Of what happens within this time, each kind is told once: a busy organization is not read again a thousand times.
MERGE_S = 0.25
KINDS: tuple[NewsKind, ...] = get_args(NewsKind)
# What the control feed says of people and their keys; of executors it says much.
_FEED_SETTINGS = frozenset({"member_removed", "api_key_revoked"})
_encode = msgspec.json.Encoder().encode


class Hint(msgspec.Struct, frozen=True, omit_defaults=True):
    """`id` is there where it was one thing alone."""

    kind: str
    at: str
    id: str | None = None


class OrgWatch(Watch):
    """One follower of one organization, and what it has not been told yet."""

    def __init__(self, deps: Deps, tenant: TenantContext) -> None:
        super().__init__(deps, tenant, org_channel(tenant.org_id))
        self._now_ms = deps.now_ms
        # The id is None where several are meant.
        self._pending: dict[NewsKind, str | None] = {}

    def heard(self, message: bytes | None) -> None:
        if message is None:
            # Nobody knows what was missed.
            self._pending = dict.fromkeys(KINDS)
            return
        news = decode(message)
        self._add(news.kind, news.id)

    def heard_feed(self, row: FeedRow) -> None:
        if row.organization_id is None:
            return
        if row.kind.startswith("executor_"):
            self._add("agents", row.subject_id)
            self.wake()
        elif row.kind in _FEED_SETTINGS:
            self._add("settings", None)

    def take(self) -> list[Hint]:
        """What is to be told now."""
        pending, self._pending = self._pending, {}
        return [self.hint(kind, one) for kind, one in pending.items()]

    def hint(self, kind: str, one: str | None = None) -> Hint:
        """Of now."""
        return Hint(kind, iso(datetime.fromtimestamp(self._now_ms() / 1000, UTC)), one)

    def _add(self, kind: NewsKind, one: str | None) -> None:
        self._pending[kind] = one if self._pending.get(kind, one) == one else None


async def org_stream(watch: OrgWatch) -> AsyncIterator[bytes]:
    """`hello`, then hints until the follower may not go on."""
    loop = asyncio.get_running_loop()
    async with watch.listening():
        # Not before somebody listens: what changes after it is heard.
        yield _frame(watch.hint("hello"))
        last_sent = loop.time()
        while await watch.may_go_on():
            hints = watch.take()
            for hint in hints:
                yield _frame(hint)
            if hints:
                last_sent = loop.time()
                await watch.pause(MERGE_S)
            elif loop.time() - last_sent >= HEARTBEAT_S:
                yield b": still here\n\n"
                last_sent = loop.time()
                watch.doubt()
            else:
                await watch.wait(HEARTBEAT_S - (loop.time() - last_sent))


@get(
    "/v1/orgs/{org_id:str}/stream",
    guards=[org_member],
    media_type="text/event-stream",
    operation_id="streamOrg",
    tags=["orgs"],
)
async def stream_org(tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]) -> Response[Any]:
    """What changes, as server-sent events: `agents`, `runs`, `approvals`, `sessions` or `settings`, without content."""
    return Stream(org_stream(OrgWatch(deps, tenant)), media_type="text/event-stream", headers=STREAM_HEADERS)


def _frame(hint: Hint) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (hint.kind.encode(), _encode(hint))


routes = [stream_org]
