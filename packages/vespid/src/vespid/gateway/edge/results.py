"""Results become commits, commits become `execute_ack`.

Not acknowledged is not lost: the agent keeps a result until it is told, so an error of ours is answered by trying
again, and a stale connection by silence.
"""

import asyncio
from collections import defaultdict

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import call_channel
from vespid.bus.errors import BusError
from vespid.bus.messages import ResultReady
from vespid.dispatch.house import House
from vespid.dispatch.rows import result_event
from vespid.dispatch.tool_calls import is_tool_call
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.inflight import InFlight
from vespid.gateway.edge.streams import Streams
from vespid.store.connections import is_revoked
from vespid.store.executions import Finish, Finished
from vespid.store.failure import STORE_AWAY, STORE_REFUSED
from vespid.tasks import Tasks
from vespid_protocol.connection import Event
from vespid_protocol.frames import ExecuteResult
from vespid_protocol.ids import OrgId, RequestId
from vespid_runtime.redaction import Redactor

log = structlog.get_logger("vespid.gateway.edge.results")

RESULTS = Counter("vespid_results_total", "Results of executors, by verdict", ["outcome"])

RETRY_S = (0.05, 0.2, 0.5, 1.0, 2.0)
TOOL_RESULT_KEEP_MS = 24 * 3_600_000


class Results:
    """What this edge does with results."""

    def __init__(self, house: House, streams: Streams, tasks: Tasks, *, push: bool, keep_ms: int) -> None:
        """`push`: apply a result to its run as it comes; else only commit it."""
        self._house = house
        self._streams = streams
        self._tasks = tasks
        self._push = push
        self._keep_ms = keep_ms
        # Results being committed, by connection: a repeat of one waits for the same commit.
        self._committing: defaultdict[Connection, dict[RequestId, asyncio.Future[None]]] = defaultdict(dict)

    def came(self, connection: Connection, frame: ExecuteResult, lease_epoch: int | None) -> None:
        """A result was read."""
        request_id = RequestId(frame.request_id)
        committing = self._committing[connection]
        if request_id not in committing:
            committing[request_id] = asyncio.get_running_loop().create_future()
            self._tasks.start(self._settle(connection, frame, lease_epoch, connection.registering))

    def under_way(self, connection: Connection) -> tuple[asyncio.Future[None], ...]:
        """The results that came on this connection and are not settled yet."""
        return tuple(self._committing.get(connection, {}).values())

    async def fail(self, connection: Connection, in_flight: InFlight, code: str, message: str) -> None:
        """End a lease that cannot be sent, as if its executor had said so."""
        frame = ExecuteResult(request_id=in_flight.request_id, status="failed", error=code, error_message=message)
        committed = await self._commit(connection, in_flight, self._finish(connection, frame, in_flight.lease_epoch))
        connection.in_flight.pop(in_flight.request_id, None)
        if committed is not None:
            await self._after(connection, in_flight, *committed)

    async def _settle(
        self,
        connection: Connection,
        frame: ExecuteResult,
        lease_epoch: int | None,
        registering: asyncio.Future[None] | None,
    ) -> None:
        request_id = RequestId(frame.request_id)
        try:
            if registering is not None:
                await asyncio.wait((registering,))
            in_flight = connection.in_flight.get(request_id)
            if in_flight is not None and lease_epoch not in (None, in_flight.lease_epoch):
                in_flight = None
            if in_flight is not None:
                await self._streams.settled(in_flight)
            finish = self._finish(connection, frame, lease_epoch)
            if in_flight is not None:
                finish = msgspec.structs.replace(
                    _masked(finish, in_flight.redactor),
                    tail=in_flight.take_events(),
                    last_event_seq=in_flight.last_event_seq,
                )
            committed = await self._commit(connection, in_flight, finish)
            if committed is None:
                return
            finish, finished = committed
            RESULTS.labels(finished.outcome).inc()
            if finished.outcome == "stale":
                # A newer connection, or a revoke: this socket says nothing that counts any more.
                await self.let_go(connection)
                return
            connection.ack(request_id, lease_epoch)
        finally:
            # From here on a repeat is answered for itself.
            committing = self._committing[connection]
            committing.pop(request_id).set_result(None)
            if not committing:
                del self._committing[connection]
        await self._after(connection, in_flight, finish, finished)

    async def let_go(self, connection: Connection) -> None:
        """End a socket whose word does not count: a newer one stands, or its executor is revoked."""
        try:
            revoked = await is_revoked(self._house.db, connection.executor_id)
        except STORE_AWAY:
            revoked = False
        if revoked:
            connection.end(Event.REVOKED, "this agent was revoked")
        else:
            connection.end(Event.SHUT_DOWN, "no longer the connection of this executor")

    def _finish(self, connection: Connection, frame: ExecuteResult, lease_epoch: int | None) -> Finish:
        return Finish(
            request=RequestId(frame.request_id),
            executor=connection.executor_id,
            connection_epoch=connection.connection_epoch,
            epoch=lease_epoch,
            status=frame.status,
            output=frame.output if isinstance(frame.output, msgspec.Raw) else None,
            error=None if frame.status == "succeeded" else frame.error or "NODE_EXECUTION_FAILED",
            error_message=frame.error_message,
            # A loop that is taken up late still finds what it had called.
            keep_ms=max(self._keep_ms, TOOL_RESULT_KEEP_MS) if is_tool_call(frame.request_id) else self._keep_ms,
        )

    async def _commit(
        self, connection: Connection, in_flight: InFlight | None, finish: Finish
    ) -> tuple[Finish, Finished] | None:
        """Try until it is settled: what was committed, and the verdict.

        None where the socket ended first (the agent sends it again).
        """
        org_id = OrgId("") if in_flight is None else in_flight.org_id
        run_id = None if in_flight is None else in_flight.run_id
        event = None
        if in_flight is not None and self._push:
            event = result_event(
                in_flight.node_id,
                in_flight.attempt,
                output=finish.output,
                error=finish.error,
                message=finish.error_message,
            )
        attempt = 0
        while True:
            try:
                return finish, await self._house.stepper.finish(org_id, run_id, event, finish)
            except STORE_AWAY as error:
                # Safe to repeat: a commit that did happen answers `duplicate`.
                log.warning("result_postponed", request_id=finish.request, error=repr(error))
                if connection.is_over:
                    return None
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
            except STORE_REFUSED as error:
                if event is None and finish.output is None:
                    raise
                # Nothing of what it says can be kept; that it ended is, or the agent would say it for ever.
                log.exception("result_refused", request_id=finish.request)
                event, finish = None, _unstorable(finish, type(error).__name__)

    async def _after(
        self, connection: Connection, in_flight: InFlight | None, finish: Finish, finished: Finished
    ) -> None:
        """Tell those who wait, and give the room to the next."""
        if finished.organization_id is None:
            return
        org_id = OrgId(str(finished.organization_id))
        if finished.outcome in ("deferred", "cancelled") and finished.run_id is not None and self._push:
            self._house.stepper.wake(org_id, str(finished.run_id))
        if in_flight is not None and in_flight.reply_to and finished.outcome != "fenced":
            await self._reply(in_flight, finish, finished)
        if is_tool_call(finish.request):
            self._house.fanout.publish(call_channel(finish.request), b"")
        if finished.outcome in ("applied", "deferred", "cancelled", "duplicate"):
            await self._house.scheduler.released(
                finish.request,
                org_id,
                executor_id=connection.executor_id,
                pool=connection.pool,
            )

    async def _reply(self, in_flight: InFlight, finish: Finish, finished: Finished) -> None:
        # What is cancelled, or was settled before, is read from the row.
        applied = finished.outcome == "applied"
        message = ResultReady(
            request_id=in_flight.request_id,
            status=finish.status,
            output=finish.output if applied and finish.output is not None else msgspec.UNSET,
            error=msgspec.UNSET if finish.error is None else msgspec.Raw(msgspec.json.encode(finish.error)),
            is_whole=applied,
        )
        for process_id in in_flight.reply_to:
            try:
                await self._house.mail.send(process_id, message)
            except BusError as error:
                log.warning("reply_lost", request_id=in_flight.request_id, error=str(error))


def _unstorable(finish: Finish, why: str) -> Finish:
    return msgspec.structs.replace(
        finish,
        status="failed",
        output=None,
        error="NODE_EXECUTION_FAILED",
        error_message=f"the result could not be stored ({why})",
        tail=(),
    )


def _masked(finish: Finish, redactor: Redactor | None) -> Finish:
    """Known secrets masked once more: an agent may have sent them back."""
    if redactor is None:
        return finish
    return msgspec.structs.replace(
        finish,
        output=None if finish.output is None else msgspec.Raw(redactor.redact_raw(bytes(finish.output))),
        error=None if finish.error is None else redactor.redact(finish.error),
        error_message=None if finish.error_message is None else redactor.redact(finish.error_message),
    )
