"""Turns on this edge's hosts: leased, opened and streamed. Their ends are in `turn_ends`, lost hosts in `turn_hosts`.

Text goes straight to the session's channel and is kept here for whoever joins later; tool events are committed in the
batches in which they gather.
"""

import asyncio

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import session_channel
from vespid.bus.errors import BusError
from vespid.bus.messages import CancelTurn, Offer, TextSoFar, TextWanted
from vespid.bus.session_news import Delta, encode
from vespid.dispatch.house import House
from vespid.domain.payload import cut
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.hosted_turn import HostedTurn
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.reservations import Reservations
from vespid.gateway.edge.results import Results
from vespid.gateway.edge.turn_ends import TurnEnds
from vespid.gateway.edge.turn_hosts import TurnHosts, send_cancel
from vespid.gateway.edge.turn_leases import KeyUnavailable, TurnLeases
from vespid.store.failure import STORE_AWAY
from vespid.store.secrets import SecretResolver
from vespid.store.turns import (
    AppendTurnEvents,
    SessionEventItem,
    TurnStore,
)
from vespid.tasks import Tasks
from vespid_protocol.codes import Code
from vespid_protocol.frames import (
    SessionOpened,
    TurnDelta,
    TurnError,
    TurnEvent,
    TurnFinal,
)
from vespid_protocol.ids import IdInvalid, RequestId, SessionId, parse_turn_request_id

log = structlog.get_logger("vespid.gateway.edge.turns")

TURN_FRAMES = Counter("vespid_turn_frames_total", "Frames of hosts about turns, by what was done", ["outcome"])

# How long a host may take to open a session.
OPEN_S = 15.0
# More text than that is not relayed; the answer itself is not cut.
TEXT_MAX_CHARS = 2 * 1024 * 1024
EVENTS_MAX = 1_024
EVENT_TYPES = frozenset({"tool_call", "tool_result", "agent_message"})


class Turns:
    """What is offered to hosts, and what they say."""

    def __init__(
        self,
        house: House,
        registry: Registry,
        store: TurnStore,
        results: Results,
        reservations: Reservations,
        resolver: SecretResolver,
        tasks: Tasks,
        *,
        payload_max_chars: int,
        managed_tools: tuple[str, ...],
    ) -> None:
        self._house = house
        self._registry = registry
        self._store = store
        self._tasks = tasks
        self._payload_max_chars = payload_max_chars
        self._leases = TurnLeases(house, registry, store, reservations, resolver, managed_tools=managed_tools)
        self._ends = TurnEnds(house, store, tasks, results.let_go)
        self.hosts = TurnHosts(house, store, self._leases, self._ends, tasks)

    # --- what other processes ask ------------------------------------------------------------------------------------

    def offered(self, offer: Offer) -> None:
        """A turn is offered to one of our hosts."""
        self._tasks.start(self._take(offer))

    def cancel(self, order: CancelTurn) -> None:
        """Somebody wants a turn stopped; its host says when it has."""
        connection = self._registry.get(order.executor_id)
        if connection is None:
            return
        send_cancel(connection, order.request_id, order.session_id, order.org_id)
        turn = connection.turns.get(order.request_id)
        if turn is not None and order.is_over:
            self._ends.over(connection, turn)

    def text_wanted(self, question: TextWanted) -> None:
        """Somebody joined while a turn runs here, or missed a piece of its text."""
        for connection in self.hosts:
            turn = connection.turns.get(question.request_id)
            if turn is not None:
                answer = TextSoFar(turn.session_id, turn.request_id, turn.seq, turn.epoch, turn.so_far())
                self._tasks.start(self._answer(question, answer))
                return

    # --- what the host says ------------------------------------------------------------------------------------------

    def opened(self, connection: Connection, frame: SessionOpened) -> None:
        turn = self._current(connection, frame.request_id, frame.session_id)
        if turn is not None and turn.frame is not None:
            self._send_turn(connection, turn)

    def delta(self, connection: Connection, frame: TurnDelta) -> None:
        turn = self._current(connection, frame.request_id, frame.session_id)
        if turn is None or turn.ending:
            return
        content = frame.content if turn.stream is None else turn.stream.feed(frame.content)
        if not content or turn.length + len(content) > TEXT_MAX_CHARS:
            return
        delta = Delta(turn.request_id, turn.seq, turn.epoch, turn.length, content)
        turn.text.append(content)
        turn.length += len(content)
        self._house.fanout.publish(session_channel(turn.session_id), encode(delta))

    def event(self, connection: Connection, frame: TurnEvent) -> None:
        turn = self._current(connection, frame.request_id, frame.session_id)
        event = frame.event
        if turn is None or turn.ending:
            return
        if event.seq <= turn.last_event_seq:
            TURN_FRAMES.labels("repeated").inc()
            return
        if len(turn.events) >= EVENTS_MAX:
            # Postgres is away, and memory is not a queue.
            TURN_FRAMES.labels("dropped").inc()
            return
        turn.last_event_seq = event.seq
        payload: object = msgspec.json.decode(event.payload) if isinstance(event.payload, msgspec.Raw) else None
        if turn.redactor is not None:
            payload = turn.redactor.redact_json(payload)
        payload = cut(payload, self._payload_max_chars)
        if event.kind in EVENT_TYPES:
            told = {"userEventSeq": turn.seq, "message": event.message, "data": payload}
            turn.events.append(SessionEventItem(event.kind, event.level, told, event.seq))
        else:
            told = {"action": event.kind, "userEventSeq": turn.seq, "message": event.message, "data": payload}
            turn.events.append(SessionEventItem("system", event.level, told, event.seq))
        if turn.writing is None:
            turn.writing = asyncio.get_running_loop().create_future()
            self._tasks.start(self._write_events(connection, turn))

    def ended(self, connection: Connection, frame: TurnFinal | TurnError) -> None:
        """A turn's end, wherever it stands."""
        if connection.registering is not None:
            # It is known only then what this host has.
            connection.registering.add_done_callback(lambda _done: self._ended(connection, frame))
        else:
            self._ended(connection, frame)

    def _ended(self, connection: Connection, frame: TurnFinal | TurnError) -> None:
        turn = connection.turns.get(RequestId(frame.request_id))
        if turn is None:
            turn = self._unknown(connection, frame)
        if turn is None:
            TURN_FRAMES.labels("foreign").inc()
            connection.ack(RequestId(frame.request_id))
        elif isinstance(frame, TurnError) and frame.code == Code.EXECUTOR_OVER_CAPACITY:
            self._declined(connection, turn)
        else:
            self._ends.came(connection, turn, frame)

    @staticmethod
    def _unknown(connection: Connection, frame: TurnFinal | TurnError) -> HostedTurn | None:
        """An end that came after its turn was given up here; the row knows whether it is still good."""
        try:
            attempt = parse_turn_request_id(frame.request_id)
        except IdInvalid:
            return None
        if connection.org_id is None or attempt.session_id != frame.session_id:
            return None
        turn = HostedTurn(
            request_id=RequestId(frame.request_id),
            org_id=connection.org_id,
            session_id=SessionId(attempt.session_id),
            seq=attempt.event_seq,
            epoch=attempt.turn_epoch,
            pool=connection.pool,
        )
        connection.turns[turn.request_id] = turn
        return turn

    # --- inner: leases -----------------------------------------------------------------------------------------------

    async def _take(self, offer: Offer) -> None:
        taken = await self._leases.take(offer)
        if taken is None:
            return
        connection, turn = taken.connection, taken.turn
        self.hosts.add(connection)
        try:
            frames = await self._leases.frames(taken)
        except KeyUnavailable as missing:
            await self._ends.fail(connection, turn, missing.code, str(missing))
            return
        if connection.is_over:
            # It ended meanwhile, and `over` did not know of this turn yet.
            await self.hosts.lose(connection, turn, "closed")
            return
        for frame in frames:
            connection.forward(frame)
        if frames:
            turn.opening = asyncio.get_running_loop().call_later(OPEN_S, self._not_opened, connection, turn)
        else:
            self._send_turn(connection, turn)

    def _send_turn(self, connection: Connection, turn: HostedTurn) -> None:
        turn.close()
        if turn.frame is not None:
            frame, turn.frame = turn.frame, None
            connection.forward(frame)

    def _not_opened(self, connection: Connection, turn: HostedTurn) -> None:
        if connection.turns.get(turn.request_id) is turn and not turn.ending:
            self._tasks.start(self.hosts.lose(connection, turn, "unopened"))

    # --- inner: events -----------------------------------------------------------------------------------------------

    async def _write_events(self, connection: Connection, turn: HostedTurn) -> None:
        writing = turn.writing
        try:
            while turn.events and not turn.ending:
                events, turn.events = tuple(turn.events), []
                try:
                    appended = await self._store.append_events(
                        AppendTurnEvents(
                            org=turn.org_id,
                            session=turn.session_id,
                            seq=turn.seq,
                            epoch=turn.epoch,
                            executor=connection.executor_id,
                            events=events,
                        )
                    )
                except STORE_AWAY as error:
                    # They go with the next ones, or with the answer. One whose outcome is unknown may be there twice.
                    log.warning("turn_events_postponed", request_id=turn.request_id, error=repr(error))
                    turn.events[:0] = events
                    return
                TURN_FRAMES.labels(appended.outcome).inc(len(events))
                if appended.event_seq is not None:
                    self._ends.moved(turn.session_id, appended.event_seq)
        finally:
            turn.writing = None
            if writing is not None:
                writing.set_result(None)

    def _declined(self, connection: Connection, turn: HostedTurn) -> None:
        """It has no room after all. Nothing is committed; the acknowledgement is for agents that keep even this."""
        turn.ending = True
        connection.ack(turn.request_id)
        # One that was told nothing but the message has forgotten the session meanwhile: it is told all of it next time.
        self._tasks.start(self.hosts.lose(connection, turn, "declined" if turn.is_opened_anew else "omitted"))

    # --- inner: small things -----------------------------------------------------------------------------------------

    @staticmethod
    def _current(connection: Connection, request_id: str, session_id: str) -> HostedTurn | None:
        """The turn that this frame is about, if it is one that this host has now."""
        turn = connection.turns.get(RequestId(request_id))
        if turn is None or turn.session_id != session_id:
            TURN_FRAMES.labels("fenced").inc()
            return None
        return turn

    async def _answer(self, question: TextWanted, answer: TextSoFar) -> None:
        try:
            await self._house.mail.send(question.reply_to, answer)
        except BusError as error:
            # Whoever asked goes on with what comes, and in the end reads the answer.
            log.warning("text_not_told", request_id=question.request_id, error=str(error))
