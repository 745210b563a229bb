"""One executor's socket: carries out, in order, what the protocol's `GatewayPeer` says.

Frames are handled within the reader's turn of the loop; only what needs a commit becomes a task. What a connection does
about work is its `Desk`'s: grants, results and streams of the whole edge.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from prometheus_client import Counter

from vespid.domain.selector import Pool
from vespid.gateway.edge.hosted_turn import HostedTurn
from vespid.gateway.edge.inflight import InFlight
from vespid.gateway.edge.transport import Transport
from vespid.gateway.edge.wheel import Wheel
from vespid.store.turns import HostCopy
from vespid_protocol import effects as fx
from vespid_protocol.codec import encode
from vespid_protocol.connection import Event
from vespid_protocol.frames import Execute, ExecuteEvent, ExecuteResult, GatewayFrame, Hello, Welcome
from vespid_protocol.gateway_peer import GatewayPeer
from vespid_protocol.ids import ExecutorId, OrgId, RequestId, SessionId

log = structlog.get_logger("vespid.gateway.edge.connection")

FRAMES_ODD = Counter("vespid_executor_frames_odd_total", "Frames that were not as they should be", ["what"])


class Desk(Protocol):
    """What the edge does about the work of a connection. None of these waits; each owns the task it starts."""

    def register(self, connection: "Connection", hello: Hello, *, is_first: bool) -> None: ...
    def declined(self, connection: "Connection", request_id: RequestId, lease_epoch: int | None) -> None: ...
    def progress(self, connection: "Connection", frame: ExecuteEvent, lease_epoch: int | None) -> None: ...
    def result(self, connection: "Connection", frame: ExecuteResult, lease_epoch: int | None) -> None: ...
    def session(self, connection: "Connection", frame: fx.SessionReply) -> None: ...
    def not_taken(self, connection: "Connection") -> None: ...
    def routable_changed(self, connection: "Connection", *, is_draining: bool) -> None: ...
    def over(self, connection: "Connection") -> None: ...


class Connection:
    """See the module. `connection_epoch` and `tags` are Postgres's."""

    __slots__ = (
        "__weakref__",
        "_closing",
        "_loop",
        "announced",
        "capacity",
        "connection_epoch",
        "copies",
        "cordoned",
        "desk",
        "executor_id",
        "granting",
        "in_flight",
        "is_over",
        "journal_id",
        "name",
        "org_id",
        "paused_until_ms",
        "peer",
        "registering",
        "tags",
        "token_sha256",
        "token_until_ms",
        "transport",
        "turns",
        "wheel",
    )

    def __init__(
        self,
        executor_id: ExecutorId,
        org_id: OrgId | None,
        name: str,
        connection_epoch: int,
        tags: tuple[str, ...],
        capacity: int,
        peer: GatewayPeer,
        transport: Transport,
        wheel: Wheel,
        desk: Desk,
        *,
        cordoned: bool,
    ) -> None:
        self.executor_id = executor_id
        # None: managed.
        self.org_id = org_id
        self.name = name
        self.connection_epoch = connection_epoch
        self.tags = tags
        self.capacity = capacity
        self.cordoned = cordoned
        self.peer = peer
        self.transport = transport
        self.wheel = wheel
        self.desk = desk
        self.in_flight: dict[RequestId, InFlight] = {}
        self.turns: dict[RequestId, HostedTurn] = {}
        # Leases that are being committed for it, so that the capacity counts them.
        self.granting = 0
        # What its host has of which sessions, as far as this edge knows.
        self.copies: dict[SessionId, HostCopy] = {}
        # The journal that it had the last time, as Postgres knows it.
        self.journal_id: str | None = None
        # Not routable before this moment (monotonic ms): it did not take its work.
        self.paused_until_ms = 0
        # What it was let in by, and, once that was rotated, until when (monotonic ms) it is good.
        self.token_sha256 = b""
        self.token_until_ms: int | None = None
        # Set while a hello is being registered: what comes about work meanwhile waits, or it would not be known here.
        self.registering: asyncio.Future[None] | None = None
        # Whether Postgres knows that Redis knows it.
        self.announced = False
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Task[None] | None = None
        wheel.plan(self, peer.next_due)

    @property
    def pool(self) -> Pool:
        """Whose executors it belongs to."""
        return "managed" if self.org_id is None else "byon"

    @property
    def now_ms(self) -> int:
        """Monotonic ms, the clock of the peer."""
        return int(self._loop.time() * 1000)

    @property
    def routable(self) -> bool:
        """Whether Redis may propose it for new work."""
        return self.peer.routable and not self.cordoned and not self.is_over and self.now_ms >= self.paused_until_ms

    @property
    def has_room(self) -> bool:
        """Whether one more may be leased to it."""
        return len(self.in_flight) + len(self.turns) + self.granting < self.capacity

    # --- what happens to it ------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """One text message."""
        for effect in self.peer.receive_data(data, self.now_ms):
            _HANDLERS[type(effect)](self, effect)

    def heard(self) -> None:
        """A WebSocket ping or pong."""
        self._carry_out(self.peer.heard(self.now_ms))

    def gone(self) -> None:
        """The socket ended by itself."""
        self._carry_out(self.peer.gone())

    def look(self, now_ms: int) -> None:
        """The wheel's turn: what the time demands."""
        if self.is_over:
            return
        if self.transport.is_slow():
            self.end(Event.SLOW_READER, "too far behind")
            return
        if self.token_until_ms is not None:
            if self.token_until_ms <= now_ms:
                self.end(Event.TOKEN_INVALID, "this token was rotated, and its time is over")
                return
            self.wheel.plan(self, self.token_until_ms)
        self._carry_out(self.peer.tick(now_ms))
        if self.is_over:
            return
        if 0 < self.paused_until_ms <= now_ms:
            self.paused_until_ms = 0
            self.desk.routable_changed(self, is_draining=False)
        self.wheel.plan(self, self.peer.next_due)

    def token_lasts(self, left_ms: int | None) -> None:
        """How long what it was let in by is still good; None: for as long as nobody rotates it."""
        self.token_until_ms = None if left_ms is None else self.now_ms + left_ms
        if self.token_until_ms is not None and not self.is_over:
            self.wheel.plan(self, self.token_until_ms)

    # --- what is done with it ----------------------------------------------------------------------------------------

    def attach(self, welcome: Welcome) -> None:
        self._carry_out(self.peer.attach(welcome))

    def execute(self, frame: Execute) -> None:
        """Send leased work. Raises IllegalTransition where nothing was written."""
        self._carry_out(self.peer.execute(frame, self.now_ms))
        self.wheel.plan(self, self.peer.next_due)

    def ack(self, request_id: RequestId, lease_epoch: int | None = None) -> None:
        """Its result is committed, or discarded for good. What is leased under another epoch stays in flight."""
        held = self.in_flight.get(request_id)
        if held is not None and lease_epoch in (None, held.lease_epoch):
            del self.in_flight[request_id]
        self._carry_out(self.peer.ack(request_id))

    def cancel(self, request_id: str, reason: str) -> None:
        self._carry_out(self.peer.cancel(request_id, reason))

    def forward(self, frame: GatewayFrame) -> None:
        """Send a frame about a session."""
        self._carry_out(self.peer.forward(frame))

    def probe(self) -> None:
        """Ask whether it lives, out of turn."""
        self._probe(fx.Probe())

    def drain(self, after_ms: int, reason: str) -> None:
        self._carry_out(self.peer.drain(after_ms, reason))

    def end(self, event: Event, reason: str) -> None:
        """Close it, for one of the protocol's reasons."""
        self._carry_out(self.peer.end(event, reason))

    async def closed(self) -> None:
        """Wait until a close that was begun is done."""
        if self._closing is not None:
            await asyncio.gather(self._closing, return_exceptions=True)

    # --- effects -----------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: tuple[fx.Effect, ...]) -> None:
        for effect in effects:
            _HANDLERS[type(effect)](self, effect)

    def _send(self, effect: fx.Send) -> None:
        self.transport.send(encode(effect.frame))

    def _result(self, effect: fx.Result) -> None:
        self.desk.result(self, effect.frame, effect.lease_epoch)

    def _progress(self, effect: fx.Progress) -> None:
        self.desk.progress(self, effect.frame, effect.lease_epoch)

    def _declined(self, effect: fx.Declined) -> None:
        self.desk.declined(self, RequestId(effect.request_id), effect.lease_epoch)

    def _register(self, effect: fx.Register) -> None:
        self.desk.register(self, effect.hello, is_first=True)

    def _update(self, effect: fx.Update) -> None:
        self.desk.register(self, effect.hello, is_first=False)

    def _counted(self, effect: fx.Counted) -> None:
        FRAMES_ODD.labels(effect.what).inc()
        if effect.what != "unknown_frame":
            log.info("odd_frame", executor_id=self.executor_id, what=effect.what, detail=effect.detail)

    def _probe(self, _effect: fx.Probe) -> None:
        task = self._loop.create_task(self.transport.ping())
        task.add_done_callback(_tell_failure)

    def _close(self, effect: fx.Close) -> None:
        log.info("socket_closing", executor_id=self.executor_id, code=int(effect.code), reason=effect.reason)
        self._closing = self._loop.create_task(self.transport.close(int(effect.code), effect.reason))
        self._closing.add_done_callback(_tell_failure)

    def _unregister(self, _effect: fx.Unregister) -> None:
        if not self.is_over:
            self.is_over = True
            self.wheel.forget(self)
            self.desk.over(self)

    def _not_taken(self, _effect: fx.NotTaken) -> None:
        self.desk.not_taken(self)

    def _routable_changed(self, _effect: fx.Effect) -> None:
        self.desk.routable_changed(self, is_draining=False)

    def _unroute(self, _effect: fx.Unroute) -> None:
        self.desk.routable_changed(self, is_draining=True)

    def _session(self, effect: fx.Session) -> None:
        self.desk.session(self, effect.frame)

    def _ignore(self, _effect: fx.Effect) -> None:
        """`received` stops the peer's accept timer; it is persisted with the next event, or never."""


_HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    fx.Send: Connection._send,
    fx.Result: Connection._result,
    fx.Progress: Connection._progress,
    fx.Received: Connection._ignore,
    fx.Declined: Connection._declined,
    fx.Counted: Connection._counted,
    fx.Register: Connection._register,
    fx.Update: Connection._update,
    fx.Probe: Connection._probe,
    fx.Close: Connection._close,
    fx.Unregister: Connection._unregister,
    fx.NotTaken: Connection._not_taken,
    fx.Silent: Connection._routable_changed,
    fx.Audible: Connection._routable_changed,
    fx.Unroute: Connection._unroute,
    fx.Session: Connection._session,
}


def _tell_failure(task: "asyncio.Task[None]") -> None:
    """A ping or close to a socket that is gone is nothing; anything else is told."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None and not isinstance(error, (ConnectionError, RuntimeError)):
        log.error("socket_write_failed", exc_info=error)
