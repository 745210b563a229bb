"""A run's events as they happen: server-sent events, read from Postgres, hurried by hints from the bus.

`seq` is given in commit order, so reading on from the last seq that was sent can neither miss an event nor send one
twice, whatever becomes of the hints. Whoever may no longer see the run is cut off within a second.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Stream

from vespid.bus.channels import run_channel
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.events import RunEvent, event_of, seq_after
from vespid.control.openapi import errors
from vespid.control.watch import HEARTBEAT_S, STREAM_HEADERS, Watch
from vespid.errors import not_found
from vespid.store.runs import list_events, read_progress

PAGE = 200
# Without a hint, how soon the run is looked at again: a hint may be lost.
REREAD_S = 2.0
TERMINAL_EVENTS = frozenset({"run_succeeded", "run_failed", "run_cancelled"})
_encode = msgspec.json.Encoder().encode


class RunWatch(Watch):
    """One follower of one run."""

    def __init__(self, deps: Deps, tenant: TenantContext, run_id: UUID) -> None:
        super().__init__(deps, tenant, run_channel(str(run_id)))


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
    return Stream(run_stream(watch, tenant, workflow, run, seq), media_type="text/event-stream", headers=STREAM_HEADERS)


def _frame(event: RunEvent) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.event_type.encode(), _encode(event))


routes = [stream_run]
