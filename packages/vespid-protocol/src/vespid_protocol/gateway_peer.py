"""The gateway's end of one executor socket.

    peer = GatewayPeer(now)                      the upgrade is done
    effects = peer.receive_data(message, now)    for each text message; `heard(now)` for WebSocket pings and pongs
    effects = peer.tick(now)                     at `peer.next_due`, or simply about once a second
    effects = peer.attach(welcome)               once the `Register` effect is committed
    effects = peer.execute(frame, now)           once the lease is committed; `ack`, `cancel`, `forward` likewise
    effects = peer.end(Event.REVOKED, "…")       the ways to close, see `connection.py`
    effects = peer.gone()                        the socket ended by itself

Effects are those of `effects.py`, to be carried out in order. Times are monotonic ms. What holds on this end: nothing
but results is heard before the first `hello`; v2 frames and fields never go to a base peer; a base peer gets an
`execute` once per lease; a frame without `leaseEpoch` is given the epoch of this socket's own grant, or None, which the
database reads as the one last granted to this executor. After the end nothing is received or sent any more: an old
connection changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec import structs

from vespid_protocol import effects as fx
from vespid_protocol.bad_frames import BadFrames
from vespid_protocol.codec import (
    MAX_FRAME_BYTES,
    FrameInvalid,
    Size,
    Unknown,
    clean_message,
    decode_clean_agent_frame,
    measure,
    message_bytes,
    recover,
)
from vespid_protocol.codes import CloseCode, Code
from vespid_protocol.connection import (
    CLOSES,
    HEARTBEAT_MS,
    MISSED_HEARTBEATS,
    STALE_MS,
    STRIKES_MAX,
    STRIKES_PAUSE_MS,
    STRIKES_WINDOW_MS,
    Effect,
    Event,
    State,
    find,
)
from vespid_protocol.frames import (
    PROTOCOL_VERSION,
    AgentFrame,
    Draining,
    ErrorFrame,
    Execute,
    ExecuteAck,
    ExecuteCancel,
    ExecuteEvent,
    ExecuteReceived,
    ExecuteResult,
    GatewayFrame,
    Hello,
    MemoryQueryResult,
    MemorySyncResult,
    Ping,
    Pong,
    Reconnect,
    SessionOpened,
    TurnDelta,
    TurnError,
    TurnEvent,
    TurnFinal,
    Welcome,
    base_form,
)
from vespid_protocol.lease import ACCEPT_MS

Effects: TypeAlias = tuple[fx.Effect, ...]
_NOTHING: Effects = ()


class Held:
    """A request that went out on this socket and has no acknowledged result yet."""

    __slots__ = ("lease_epoch", "received")

    def __init__(self, lease_epoch: int | None) -> None:
        self.lease_epoch = lease_epoch
        # It said so, or said anything else about it.
        self.received = False


class GatewayPeer:
    """One socket, from the upgrade to its end."""

    # A gateway holds very many of them.
    __slots__ = (
        "_accepts",
        "_bad_frames",
        "_next_probe",
        "_server_time",
        "accept_ms",
        "audible",
        "connection_epoch",
        "heartbeat_ms",
        "held",
        "hello",
        "last_heard",
        "max_frame_bytes",
        "speaks_v2",
        "stale_ms",
        "state",
    )

    def __init__(
        self,
        now: int,
        *,
        heartbeat_ms: int = HEARTBEAT_MS,
        stale_ms: int = STALE_MS,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        accept_ms: int = ACCEPT_MS,
        server_time: Callable[[], str] = lambda: "",
    ) -> None:
        self.state = find(State.AUTHENTICATING, Event.ADMITTED).target or State.CONNECTED
        # The latest, without its tools. None: not routable yet.
        self.hello: Hello | None = None
        # Whether v2 frames and fields may be sent.
        self.speaks_v2 = False
        # Of the committed registration; None until `attach`.
        self.connection_epoch: int | None = None
        # When anything at all was last heard.
        self.last_heard = now
        # False after two missed heartbeats of a v2 peer.
        self.audible = True
        # What this socket was given and has not finished.
        self.held: dict[str, Held] = {}
        self.heartbeat_ms = heartbeat_ms
        self.stale_ms = stale_ms
        self.max_frame_bytes = max_frame_bytes
        # How long an `execute` may go without a word about it.
        self.accept_ms = accept_ms
        self._server_time = server_time
        self._next_probe = now + stale_ms // 3
        # (deadline, requestId, lease epoch) of `execute` frames not yet received; deadlines only grow.
        # Lists that are empty on most sockets, rather than deques: an empty one of those takes a page's worth of slots.
        self._accepts: list[tuple[int, str, int | None]] = []
        # When the latest of them came, oldest first.
        self._bad_frames = BadFrames()

    # --- what comes in -----------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | str, now: int) -> Effects:
        """One text message, whatever it holds."""
        if self.state is State.CLOSED:
            return _NOTHING
        size = measure(message_bytes(data), self.max_frame_bytes)
        try:
            if size is not Size.FITS:
                return self._oversized(data, size, now)
            message, mended = clean_message(data)
            frame = decode_clean_agent_frame(message)
        except FrameInvalid as problem:
            return self._bad_frame(problem, now)
        if type(frame) is Unknown:
            return (*self.heard(now), fx.Counted("unknown_frame", frame.type[:64]))
        effects = self.receive(frame, now)  # type: ignore[arg-type]  # mypy does not narrow by type()
        return (*effects, fx.Counted("mended_text")) if mended else effects

    def receive(self, frame: AgentFrame, now: int) -> Effects:
        """One decoded frame."""
        if self.state is State.CLOSED:
            return _NOTHING
        self.last_heard = now
        effects = _HANDLERS[type(frame)](self, frame, now)
        if not self.audible:
            self.audible = True
            return (fx.Audible(), *effects)
        return effects

    def heard(self, now: int) -> Effects:
        """A WebSocket ping or pong came: it lives."""
        self.last_heard = now
        if self.audible or self.state is State.CLOSED:
            return _NOTHING
        self.audible = True
        return (fx.Audible(),)

    def gone(self) -> Effects:
        """The socket ended by itself. May be called after `end`, which has then said it all."""
        row = find(self.state, Event.GONE)
        if row.target is None:
            return _NOTHING
        self.state = row.target
        return (fx.Unregister(self.connection_epoch),)

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def next_due(self) -> int:
        """When `tick` has something to do at the latest, if nothing comes in."""
        due = min(self._next_probe, self.last_heard + self.stale_ms)
        if self.speaks_v2 and self.audible:
            due = min(due, self.last_heard + MISSED_HEARTBEATS * self.heartbeat_ms)
        return min(due, self._accepts[0][0]) if self._accepts else due

    def tick(self, now: int) -> Effects:
        """What the time demands."""
        if self.state is State.CLOSED:
            return _NOTHING
        if now - self.last_heard >= self.stale_ms:
            return self.end(Event.STALE, "nothing heard")
        overdue = self._overdue(now)
        if overdue is not None:
            return (fx.NotTaken(*overdue), *self.end(Event.NOT_TAKEN, "work was not taken in time"))
        effects: Effects = _NOTHING
        if self.speaks_v2 and self.audible and now - self.last_heard >= MISSED_HEARTBEATS * self.heartbeat_ms:
            self.audible = False
            effects = (fx.Silent(),)
        if now >= self._next_probe:
            self._next_probe = now + self.stale_ms // 3
            effects = (*effects, fx.Probe())
        return effects

    # --- what goes out -----------------------------------------------------------------------------------------------

    @property
    def routable(self) -> bool:
        """Whether new work may be offered: registered, heard of, and nobody drains."""
        return self.state in (State.BASE, State.V2) and self.audible and self.connection_epoch is not None

    def attach(self, welcome: Welcome) -> Effects:
        """The connection is committed under `welcome.connection_epoch`; a v2 peer is told."""
        self.connection_epoch = welcome.connection_epoch
        return self._send(welcome)

    def execute(self, frame: Execute, now: int) -> Effects:
        """Send a leased request. Empty where a base peer already has it under this lease.

        Raises IllegalTransition before the hello and after the end: then nothing was written (`unsent`).
        """
        find(self.state, Event.EXECUTE)
        held = self.held.get(frame.request_id)
        if held is None or held.lease_epoch != frame.lease_epoch:
            self.held[frame.request_id] = Held(frame.lease_epoch)
        elif not self.speaks_v2:
            return _NOTHING
        if self.speaks_v2:
            self._accepts.append((now + self.accept_ms, frame.request_id, frame.lease_epoch))
        return self._send(frame)

    def ack(self, request_id: str) -> Effects:
        """The result, or turn end, is committed or discarded for good."""
        self.held.pop(request_id, None)
        return self._send(ExecuteAck(request_id=request_id))

    def cancel(self, request_id: str, reason: str) -> Effects:
        """Stop it. A base peer cannot be told; its slot stays taken until result or deadline."""
        return self._send(ExecuteCancel(request_id=request_id, reason=reason))

    def release(self, request_id: str) -> None:
        """The request is over without a result from here (deadline, lost lease)."""
        self.held.pop(request_id, None)

    def forward(self, frame: GatewayFrame) -> Effects:
        """Send a session's frame, in the form that this peer understands."""
        return self._send(frame)

    def drain(self, after_ms: int, reason: str) -> Effects:
        """This gateway is going: nothing new, and a v2 peer is asked to connect elsewhere."""
        row = find(self.state, Event.GATEWAY_DRAINS)
        if row.target is State.CLOSED:
            return self.end(Event.SHUT_DOWN, reason)
        self.state = row.target or self.state
        told = self._send(Reconnect(after_ms=after_ms, reason=reason))
        return (fx.Unroute(reason), *told) if Effect.UNROUTE in row.effects else told

    def end(self, event: Event, reason: str) -> Effects:
        """Close for one of the reasons in `connection.CLOSES`."""
        if self.state is State.CLOSED:
            return _NOTHING
        self.state = find(self.state, event).target or State.CLOSED
        self._accepts.clear()
        return (fx.Close(CLOSES[event], reason), fx.Unregister(self.connection_epoch))

    def supersede(self, newer: Hello) -> Effects:
        """A newer connection of the same executor has registered with this hello."""
        ours = None if self.hello is None else self.hello.instance_id
        if ours is not None and ours == newer.instance_id:
            return self.end(Event.REPLACED, "replaced by a newer socket of this process")
        return self.end(Event.SUPERSEDED, "another process uses this credential")

    def _send(self, frame: GatewayFrame) -> Effects:
        if self.state is State.CLOSED:
            return _NOTHING
        if self.speaks_v2:
            return (fx.Send(frame),)
        simpler = base_form(frame)
        return _NOTHING if simpler is None else (fx.Send(simpler),)

    # --- frames, one by one ------------------------------------------------------------------------------------------

    def _ping(self, frame: Ping, now: int) -> Effects:
        return (fx.Send(Pong(ts=frame.ts, server_time=self._server_time())),)

    def _hello(self, frame: Hello, now: int) -> Effects:
        if frame.protocol is None:
            event = Event.HELLO_BASE
        elif frame.protocol.version == PROTOCOL_VERSION:
            event = Event.HELLO_V2
        else:
            return self.end(Event.HELLO_UNSPOKEN, f"only protocol version {PROTOCOL_VERSION} is spoken here")
        row = find(self.state, event)
        self.state = row.target or self.state
        self.speaks_v2 = self.speaks_v2 or event is Event.HELLO_V2
        first, self.hello = self.hello is None, _kept(frame)
        return (fx.Register(frame),) if first else (fx.Update(frame),)

    def _received(self, frame: ExecuteReceived, now: int) -> Effects:
        if self.state is State.CONNECTED:
            return _early(frame.request_id)
        held = self.held.get(frame.request_id)
        epoch = _epoch(frame.lease_epoch, held)
        if held is not None and epoch == held.lease_epoch:
            held.received = True
        return (fx.Received(frame.request_id, epoch),)

    def _progress(self, frame: ExecuteEvent, now: int) -> Effects:
        if self.state is State.CONNECTED:
            return _early(frame.request_id)
        held = self.held.get(frame.request_id)
        epoch = _epoch(frame.lease_epoch, held)
        if held is not None and epoch == held.lease_epoch:
            held.received = True
        return (fx.Progress(frame, epoch),)

    def _result(self, frame: ExecuteResult, now: int) -> Effects:
        held = self.held.get(frame.request_id)
        epoch = _epoch(frame.lease_epoch, held)
        if held is not None and epoch == held.lease_epoch:
            held.received = True
        if frame.status == "failed" and frame.error == Code.EXECUTOR_OVER_CAPACITY:
            # There is nothing to commit; the acknowledgement is for agents that keep even this.
            return (fx.Declined(frame.request_id, epoch), *self.ack(frame.request_id))
        return (fx.Result(frame, epoch),)

    def _draining(self, frame: Draining, now: int) -> Effects:
        row = find(self.state, Event.PEER_DRAINS)
        self.state = row.target or self.state
        return (fx.Unroute(frame.reason),) if Effect.UNROUTE in row.effects else _NOTHING

    def _session(self, frame: fx.SessionReply, now: int) -> Effects:
        if self.state is State.CONNECTED:
            return _early(frame.request_id)
        return (fx.Session(frame),)

    def _turn_end(self, frame: TurnFinal | TurnError, now: int) -> Effects:
        return (fx.Session(frame),)

    # --- what is wrong -----------------------------------------------------------------------------------------------

    def _oversized(self, data: bytes | str, size: Size, now: int) -> Effects:
        if size is Size.OVER_HARD:
            return self.end(Event.TOO_BIG, "frame too big")
        whose = recover(data)
        counted = fx.Counted("oversized_frame", whose.type[:64])
        if whose.type == "execute_result" and whose.request_id:
            result = ExecuteResult(
                request_id=whose.request_id,
                status="failed",
                error=Code.RESULT_TOO_LARGE,
                error_message=f"the result frame is larger than {self.max_frame_bytes} bytes",
                lease_epoch=whose.lease_epoch,
            )
            return (*self.receive(result, now), counted)
        too_big = FrameInvalid("$", "frame too big", request_id=whose.request_id, frame_type=whose.type)
        return (*self._bad_frame(too_big, now), counted)

    def _bad_frame(self, problem: FrameInvalid, now: int) -> Effects:
        counted = (*self.heard(now), fx.Counted("bad_frame", f"{problem.frame_type or '?'}: {problem.field}"[:128]))
        if self._bad_frames.one_more(now):
            return (*counted, *self.end(Event.TOO_MANY_BAD_FRAMES, "too many bad frames"))
        told = ErrorFrame(code=Code.BAD_REQUEST, message=str(problem)[:500], request_id=problem.request_id)
        return (*counted, *self._send(told))

    def _overdue(self, now: int) -> tuple[str, int | None] | None:
        """An `execute` whose 5 s have passed without a word about it."""
        accepts = self._accepts
        while accepts:
            deadline, request_id, epoch = accepts[0]
            held = self.held.get(request_id)
            if held is not None and not held.received and held.lease_epoch == epoch:
                return (request_id, epoch) if now >= deadline else None
            # Few are ever in it: as many as the executor may have at once.
            del accepts[0]
        return None


_HANDLERS: dict[type, Callable[[GatewayPeer, Any, int], Effects]] = {
    Ping: GatewayPeer._ping,
    ExecuteEvent: GatewayPeer._progress,
    ExecuteResult: GatewayPeer._result,
    ExecuteReceived: GatewayPeer._received,
    Hello: GatewayPeer._hello,
    Draining: GatewayPeer._draining,
    SessionOpened: GatewayPeer._session,
    TurnDelta: GatewayPeer._session,
    TurnEvent: GatewayPeer._session,
    TurnFinal: GatewayPeer._turn_end,
    TurnError: GatewayPeer._turn_end,
    MemorySyncResult: GatewayPeer._session,
    MemoryQueryResult: GatewayPeer._session,
}


class Strikes:
    """How often an executor did not take its work: three within ten minutes, and it is not routable for a minute.

    Kept per executor, across its connections.
    """

    def __init__(self) -> None:
        self._at: deque[int] = deque(maxlen=STRIKES_MAX)
        # Not routable before this moment.
        self.paused_until = 0

    def add(self, now: int) -> bool:
        """Count one; whether that was one too many."""
        self._at.append(now)
        if len(self._at) < STRIKES_MAX or now - self._at[0] > STRIKES_WINDOW_MS:
            return False
        self.paused_until = now + STRIKES_PAUSE_MS
        self._at.clear()
        return True


def close_code(effects: Effects) -> CloseCode | None:
    """The code with which these effects close the socket, if they do."""
    return next((effect.code for effect in effects if type(effect) is fx.Close), None)


def _epoch(said: int | None, held: Held | None) -> int | None:
    return said if said is not None or held is None else held.lease_epoch


def _kept(hello: Hello) -> Hello:
    """What is remembered as long as the socket lives: not the tools, which are long."""
    can = hello.capabilities
    if can is None or (can.tools is None and can.tool_problems is None):
        return hello
    return structs.replace(hello, capabilities=structs.replace(can, tools=None, tool_problems=None))


def _early(request_id: str) -> Effects:
    return (fx.Counted("early_frame", request_id[:64]),)
