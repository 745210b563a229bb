"""Turns on this edge's hosts: leased, opened, streamed, lost and found again. Their ends are in `turn_ends`.

Text goes straight to the session's channel and is kept here for whoever joins later; tool events are committed in the
batches in which they gather; a host that is gone or says nothing is given up, and the turn goes to another.
"""

import asyncio
import contextlib

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import session_channel
from vespid.bus.errors import BusError
from vespid.bus.messages import CancelTurn, Offer, TextSoFar, TextWanted
from vespid.bus.session_news import Delta, Moved, encode
from vespid.dispatch.house import House
from vespid.domain.payload import cut
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.hosted_turn import HostedTurn
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.reservations import Reservations
from vespid.gateway.edge.results import Results
from vespid.gateway.edge.turn_ends import TurnEnds
from vespid.gateway.edge.turn_leases import KeyUnavailable, TurnLeases
from vespid.store.failure import STORE_AWAY
from vespid.store.secrets import SecretResolver
from vespid.store.turns import (
    AppendTurnEvents,
    Attach,
    Attached,
    HostCopy,
    LoseTurn,
    LostReason,
    SessionEventItem,
    TurnStore,
)
from vespid.tasks import Tasks
from vespid_protocol.codes import Code
from vespid_protocol.frames import (
    Hello,
    SessionCancel,
    SessionOpened,
    TurnDelta,
    TurnError,
    TurnEvent,
    TurnFinal,
)
from vespid_protocol.ids import ExecutorId, IdInvalid, OrgId, RequestId, SessionId, parse_turn_request_id

log = structlog.get_logger("vespid.gateway.edge.turns")

TURN_FRAMES = Counter("vespid_turn_frames_total", "Frames of hosts about turns, by what was done", ["outcome"])
HOSTS_LOST = Counter("vespid_turn_hosts_lost_total", "Hosts given up in the middle of a turn", ["reason"])

# A host that has a turn is asked whether it lives, and given up where it says nothing at all.
WATCH_S = 1.0
PROBE_AFTER_MS = 2_000
SILENT_MS = 5_000
# How long a host may take to open a session.
OPEN_S = 15.0
# A host that said it has no room is asked again no sooner.
DECLINED_S = 1.0
# More text than that is not relayed; the answer itself is not cut.
TEXT_MAX_CHARS = 2 * 1024 * 1024
EVENTS_MAX = 1_024
COPIES_MAX = 4_096
EVENT_TYPES = frozenset({"tool_call", "tool_result", "agent_message"})


class Turns:
    """A Service, for the watch over hosts."""

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
        # Connections with a turn that runs.
        self._hosts: set[Connection] = set()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_watch(), name="turn-hosts")

    async def stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    # --- what other processes ask ------------------------------------------------------------------------------------

    def offered(self, offer: Offer) -> None:
        """A turn is offered to one of our hosts."""
        self._tasks.start(self._take(offer))

    def cancel(self, order: CancelTurn) -> None:
        """Somebody wants a turn stopped; its host says when it has."""
        connection = self._registry.get(order.executor_id)
        if connection is None:
            return
        self._send_cancel(connection, order.request_id, order.session_id, order.org_id)
        turn = connection.turns.get(order.request_id)
        if turn is not None and order.is_over:
            self._ends.over(connection, turn)

    def text_wanted(self, question: TextWanted) -> None:
        """Somebody joined while a turn runs here, or missed a piece of its text."""
        for connection in self._hosts:
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

    # --- connections -------------------------------------------------------------------------------------------------

    @staticmethod
    def copies(connection: Connection, said: Hello) -> None:
        """Every hello says which sessions the host has, and how much of each."""
        connection.copies = {
            SessionId(session.session_id): HostCopy(session.generation, session.history_seq, session.memory_version)
            for session in (said.open_sessions or ())[:COPIES_MAX]
        }

    async def attach(self, connection: Connection, said: Hello) -> None:
        """After the first hello: which turns it still has, which are lost, and which it must stop."""
        self.copies(connection, said)
        running = tuple(RequestId(held.request_id) for held in said.in_flight or () if is_turn(held.request_id))
        rows = await self._store.attach(
            connection.executor_id,
            Attach(
                connection_epoch=connection.connection_epoch,
                edge=self._house.process_id,
                running=running,
                unacked=tuple(RequestId(request) for request in said.unacked or () if is_turn(request)),
                is_base=not said.speaks_v2,
                same_journal=said.speaks_v2 and connection.journal_id in (None, said.journal_id),
            ),
        )
        for row in rows:
            await self._attached(connection, row)

    def over(self, connection: Connection) -> None:
        """Its socket is gone: what ran there goes elsewhere, and who waited for it need not wait."""
        self._hosts.discard(connection)
        self._tasks.start(self._lose_all(connection))

    async def revoked(self, executor_id: ExecutorId) -> None:
        """Nothing more of it counts. Every gateway does this; the second finds nothing left."""
        try:
            for held in await self._store.of_executor(executor_id):
                org_id, session_id = OrgId(str(held.organization_id)), SessionId(str(held.session_id))
                if held.is_held:
                    loss = LoseTurn(
                        org=org_id,
                        session=session_id,
                        seq=held.user_seq,
                        epoch=held.turn_epoch,
                        executor=executor_id,
                        reason="revoked",
                    )
                    await self._lose(loss, RequestId(f"{session_id}:turn:{held.user_seq}:{held.turn_epoch}"))
                else:
                    self._leases.place_again(org_id, session_id)
        except STORE_AWAY as error:
            # The sweep finds turns whose executor is revoked.
            log.warning("revoked_turns_remain", executor_id=executor_id, error=repr(error))

    # --- inner: leases -----------------------------------------------------------------------------------------------

    async def _take(self, offer: Offer) -> None:
        taken = await self._leases.take(offer)
        if taken is None:
            return
        connection, turn, leased = taken
        self._hosts.add(connection)
        try:
            frames = await self._leases.frames(connection, turn, leased)
        except KeyUnavailable as missing:
            await self._ends.fail(connection, turn, missing.code, str(missing))
            return
        if connection.is_over:
            # It ended meanwhile, and `over` did not know of this turn yet.
            await self._lose_turn(connection, turn, "closed")
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
            self._tasks.start(self._lose_turn(connection, turn, "unopened"))

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
                    self._moved(turn.session_id, appended.event_seq)
        finally:
            turn.writing = None
            if writing is not None:
                writing.set_result(None)

    # --- inner: hosts ------------------------------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            for connection in tuple(self._hosts):
                if connection.is_over or not connection.turns:
                    self._hosts.discard(connection)
                    continue
                quiet_ms = connection.now_ms - connection.peer.last_heard
                if quiet_ms >= SILENT_MS:
                    for turn in tuple(connection.turns.values()):
                        if not turn.ending:
                            self._tasks.start(self._lose_turn(connection, turn, "silent"))
                elif quiet_ms >= PROBE_AFTER_MS:
                    connection.probe()

    async def _lose_all(self, connection: Connection) -> None:
        for turn in tuple(connection.turns.values()):
            await self._lose_turn(connection, turn, "closed")
        try:
            for held in await self._store.of_executor(connection.executor_id):
                if not held.is_held:
                    self._leases.place_again(OrgId(str(held.organization_id)), SessionId(str(held.session_id)))
        except STORE_AWAY as error:
            # The sweep looks at those that wait.
            log.warning("waiting_turns_not_told", executor_id=connection.executor_id, error=repr(error))

    async def _lose_turn(self, connection: Connection, turn: HostedTurn, reason: LostReason) -> None:
        self._ends.over(connection, turn)
        connection.copies.pop(turn.session_id, None)
        loss = LoseTurn(
            org=turn.org_id,
            session=turn.session_id,
            seq=turn.seq,
            epoch=turn.epoch,
            executor=connection.executor_id,
            reason=reason,
            connection_epoch=connection.connection_epoch,
        )
        try:
            await self._lose(loss, turn.request_id)
        except STORE_AWAY as error:
            # The sweep finds turns whose executor is lost, and those whose time is over.
            log.warning("turn_loss_not_noted", request_id=turn.request_id, error=repr(error))

    async def _lose(self, loss: LoseTurn, request_id: RequestId) -> None:
        lost = await self._store.lose(loss)
        if lost.outcome == "gone":
            return
        HOSTS_LOST.labels(loss.reason).inc()
        if lost.event_seq is not None:
            self._moved(loss.session, lost.event_seq)
        await self._house.scheduler.released(request_id, loss.org, executor_id=loss.executor)
        if lost.has_next:
            self._leases.place_again(loss.org, loss.session, DECLINED_S if loss.reason == "declined" else 0.0)

    def _declined(self, connection: Connection, turn: HostedTurn) -> None:
        """It has no room after all. Nothing is committed; the acknowledgement is for agents that keep even this."""
        turn.ending = True
        connection.ack(turn.request_id)
        # One that was told nothing but the message has forgotten the session meanwhile: it is told all of it next time.
        self._tasks.start(self._lose_turn(connection, turn, "declined" if turn.is_opened_anew else "omitted"))

    async def _attached(self, connection: Connection, row: Attached) -> None:
        if row.action == "foreign" or row.organization_id is None or row.user_seq is None or row.turn_epoch is None:
            # A managed host of another organization's session is not told whose it is.
            org_id = connection.org_id or OrgId("")
            self._send_cancel(connection, row.request_id, SessionId(str(row.session_id)), org_id)
            return
        org_id, session_id = OrgId(str(row.organization_id)), SessionId(str(row.session_id))
        if row.event_seq is not None:
            self._moved(session_id, row.event_seq)
        if row.action in ("place", "failed", "cancelled"):
            await self._house.scheduler.released(row.request_id, org_id, executor_id=connection.executor_id)
            self._leases.place_again(org_id, session_id)
            return
        if row.request_id not in connection.turns:
            connection.turns[row.request_id] = HostedTurn(
                request_id=row.request_id,
                org_id=org_id,
                session_id=session_id,
                seq=row.user_seq,
                epoch=row.turn_epoch,
                pool=connection.pool,
            )
            self._hosts.add(connection)
        if row.action == "cancelling":
            self._send_cancel(connection, row.request_id, session_id, org_id)

    @staticmethod
    def _send_cancel(connection: Connection, request_id: RequestId, session_id: SessionId, org_id: OrgId) -> None:
        # What it makes of the turn it stops is not what the session's history says.
        connection.copies.pop(session_id, None)
        connection.forward(SessionCancel(request_id=request_id, organization_id=org_id, session_id=session_id))

    # --- inner: small things -----------------------------------------------------------------------------------------

    @staticmethod
    def _current(connection: Connection, request_id: str, session_id: str) -> HostedTurn | None:
        """The turn that this frame is about, if it is one that this host has now."""
        turn = connection.turns.get(RequestId(request_id))
        if turn is None or turn.session_id != session_id:
            TURN_FRAMES.labels("fenced").inc()
            return None
        return turn

    def _moved(self, session_id: SessionId, seq: int) -> None:
        self._house.fanout.publish(session_channel(session_id), encode(Moved(seq)))

    async def _answer(self, question: TextWanted, answer: TextSoFar) -> None:
        try:
            await self._house.mail.send(question.reply_to, answer)
        except BusError as error:
            # Whoever asked goes on with what comes, and in the end reads the answer.
            log.warning("text_not_told", request_id=question.request_id, error=str(error))


def is_turn(request_id: str) -> bool:
    """Whether a requestId names a try of a turn rather than an attempt of a node."""
    try:
        parse_turn_request_id(request_id)
    except IdInvalid:
        return False
    return True
