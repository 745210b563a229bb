"""Remote events in batches: those of one request that gather within BATCH_S, or BATCH_MAX of them, are one commit.

Repeats are dropped by (request, lease epoch, seq). What has not been persisted when the result comes goes with it.
"""

import asyncio

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import run_channel
from vespid.dispatch.house import House
from vespid.domain.payload import cut_event
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.inflight import InFlight
from vespid.store.executions import Append, EventItem
from vespid.store.failure import STORE_AWAY
from vespid.tasks import Tasks
from vespid_protocol.frames import ExecuteEvent
from vespid_protocol.ids import RequestId

log = structlog.get_logger("vespid.gateway.edge.streams")

REMOTE_EVENTS = Counter("vespid_remote_events_total", "Events of running work, by what was done with them", ["outcome"])

BATCH_S = 0.1
BATCH_MAX = 64
# A request with so many unpersisted events loses further ones: Postgres is away, and memory is not a queue.
BUFFER_MAX = 4_096


class Streams:
    """What this edge does with events."""

    def __init__(self, house: House, tasks: Tasks, *, payload_max_chars: int) -> None:
        self._house = house
        self._tasks = tasks
        self._payload_max_chars = payload_max_chars
        # Requests with events to persist.
        self._waiting: dict[RequestId, tuple[Connection, InFlight]] = {}
        # Batches being written.
        self._writing: dict[RequestId, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def came(self, connection: Connection, frame: ExecuteEvent, lease_epoch: int | None) -> None:
        """An event was read."""
        in_flight = connection.in_flight.get(RequestId(frame.request_id))
        event = frame.event
        if in_flight is None or lease_epoch not in (None, in_flight.lease_epoch):
            REMOTE_EVENTS.labels("fenced").inc()
            return
        if event.seq <= in_flight.last_event_seq:
            REMOTE_EVENTS.labels("repeated").inc()
            return
        if len(in_flight.events) >= BUFFER_MAX:
            REMOTE_EVENTS.labels("dropped").inc()
            return
        if in_flight.run_id is None:
            # No history to put it into.
            in_flight.last_event_seq = event.seq
            return
        if not in_flight.events:
            in_flight.first_event_seq = event.seq
        in_flight.last_event_seq = event.seq
        payload = msgspec.json.decode(msgspec.json.encode(event), type=dict[str, object])
        if in_flight.redactor is not None:
            payload = msgspec.convert(in_flight.redactor.redact_json(payload), dict[str, object])
        in_flight.events.append(
            EventItem(
                "remote_event",
                event.level,
                in_flight.node_id,
                in_flight.node_type,
                event.kind,
                cut_event(payload, self._payload_max_chars),
            )
        )
        self._waiting[in_flight.request_id] = (connection, in_flight)
        if len(in_flight.events) >= BATCH_MAX:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self._flush)

    async def settled(self, in_flight: InFlight) -> None:
        """Wait for a batch of this request that is being written, so that nothing of it comes behind its result."""
        self._waiting.pop(in_flight.request_id, None)
        writing = self._writing.get(in_flight.request_id)
        if writing is not None:
            await writing

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        for request_id, (connection, in_flight) in waiting.items():
            if request_id in self._writing:
                self._waiting[request_id] = (connection, in_flight)
            elif in_flight.events:
                self._writing[request_id] = asyncio.get_running_loop().create_future()
                self._tasks.start(self._write(connection, in_flight))
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self._flush)

    async def _write(self, connection: Connection, in_flight: InFlight) -> None:
        first, last = in_flight.first_event_seq, in_flight.last_event_seq
        events = in_flight.take_events()
        try:
            appended = await self._house.executions.append_events(
                Append(
                    request=in_flight.request_id,
                    executor=connection.executor_id,
                    connection_epoch=connection.connection_epoch,
                    epoch=in_flight.lease_epoch,
                    first_event_seq=first,
                    last_event_seq=last,
                    events=events,
                )
            )
            REMOTE_EVENTS.labels(appended.outcome).inc(len(events))
            if appended.run_id is not None:
                self._house.fanout.publish(run_channel(str(appended.run_id)), b"%d" % (appended.seq or 0))
        except STORE_AWAY as error:
            # Once more with the next batch, or with the result. Where the outcome is unknown and it was committed, the
            # repeat is refused by its first seq.
            log.warning("events_postponed", request_id=in_flight.request_id, error=repr(error))
            in_flight.events[:0] = events
            in_flight.first_event_seq = first
            self._waiting[in_flight.request_id] = (connection, in_flight)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(BATCH_S * 10, self._flush)
        finally:
            self._writing.pop(in_flight.request_id).set_result(None)
