"""A run's events as they happen: server-sent events, read from Postgres, hurried by hints from the bus.

`seq` is given in commit order, so reading on from the last seq that was sent can neither miss an event nor send one
twice, whatever becomes of the hints. Whoever may no longer see the run is cut off within a second.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Stream

from vespid.bus.channels import run_channel
from vespid.bus.errors import BusError
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.events import RunEvent, event_of, seq_after
from vespid.control.openapi import errors
from vespid.errors import not_found
from vespid.store.connections import FeedRow
from vespid.store.runs import list_events, read_progress
from vespid_protocol.ids import RunId

log = structlog.get_logger("vespid.control.stream")

PAGE = 200
# Without a hint, how soon the run is looked at again: a hint may be lost.
REREAD_S = 2.0
# A comment goes out this often, so that proxies keep the connection and a dead client is noticed.
HEARTBEAT_S = 15.0
TERMINAL_EVENTS = frozenset({"run_succeeded", "run_failed", "run_cancelled"})
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_encode = msgspec.json.Encoder().encode


class RunWatch:
    """One follower of one run: when to look again, and whether it may still look."""

    def __init__(self, deps: Deps, tenant: TenantContext, run_id: UUID) -> None:
        self._deps = deps
        self._tenant = tenant
        self._run_id = run_id
        # Set by a hint that the run has moved, or that people have.
        self._woken = asyncio.Event()
        # The guard let the caller in before this began to listen.
        self._in_doubt = True

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear of the run and of people for the length of a block."""
        async with contextlib.AsyncExitStack() as ways_out:
            if self._deps.feed is not None:
                ways_out.callback(self._deps.feed.listen(self._hear_feed))
            if self._deps.fanout is not None:
                try:
                    leave = await self._deps.fanout.subscribe(
                        run_channel(RunId(str(self._run_id))), lambda _message: self._woken.set()
                    )
                    ways_out.push_async_callback(leave)
                except BusError as error:
                    log.debug("run_stream_without_hints", error=repr(error))
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

    def _hear_feed(self, row: FeedRow) -> None:
        # Executors come and go without anybody losing a membership.
        if not row.kind.startswith("executor_") and row.organization_id in (None, UUID(self._tenant.org_id)):
            self._in_doubt = True
            self._woken.set()


async def run_stream(
    watch: RunWatch, tenant: TenantContext, workflow_id: UUID, run_id: UUID, after_seq: int
) -> AsyncIterator[bytes]:
    """Every event after `after_seq`, each once and in order, to the terminal one."""
    loop = asyncio.get_running_loop()
    seq = after_seq
    # Tells the client at once that it is connected.
    yield b": connected\n\n"
    last_sent = loop.time()
    async with watch.listening():
        while await watch.may_go_on():
            async with tenant.transaction() as connection:
                # Progress first: what it counts, the list that is read after it shows.
                progress = await read_progress(connection, UUID(tenant.org_id), workflow_id, run_id)
                rows = await list_events(connection, run_id, seq, PAGE)
            for row in rows:
                yield _frame(event_of(row))
                seq = row.seq
                last_sent = loop.time()
                if row.event_type in TERMINAL_EVENTS:
                    return
            if len(rows) == PAGE:
                continue
            if progress is None or (progress.is_finished and progress.event_seq <= seq):
                return
            if loop.time() - last_sent >= HEARTBEAT_S:
                yield b": still here\n\n"
                last_sent = loop.time()
                watch.doubt()
            await watch.wait(REREAD_S)


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs/{run_id:str}/stream",
    guards=[org_member],
    responses={**errors(404), 204: ResponseSpec(None, description="The run is over and all of it was sent before.")},
    media_type="text/event-stream",
)
async def stream_run(
    workflow_id: FromPath[str],
    run_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    after_seq: Annotated[int | None, QueryParameter(name="afterSeq", ge=0, le=2**62)] = None,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Response[Any]:
    """A run's events as they happen, as server-sent events; ends after the terminal one."""
    workflow = row_id(workflow_id)
    run = row_id(run_id)
    seq = seq_after(last_event_id, after_seq)
    async with tenant.transaction() as connection:
        progress = await read_progress(connection, UUID(tenant.org_id), workflow, run)
    if progress is None:
        raise not_found()
    if last_event_id is not None and progress.is_finished and progress.event_seq <= seq:
        # Tells a browser's EventSource not to connect again.
        return Response(None, status_code=204)
    watch = RunWatch(deps, tenant, run)
    return Stream(run_stream(watch, tenant, workflow, run, seq), media_type="text/event-stream", headers=_HEADERS)


def _frame(event: RunEvent) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.event_type.encode(), _encode(event))


routes = [stream_run]
