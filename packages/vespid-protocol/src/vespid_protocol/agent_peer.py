"""The agent's end of its link: one object for the whole life of the agent's process, across its sockets.

    peer = AgentPeer(identity, entries, random=random.random)
    effects = peer.opened(now, epoch_ms)         the upgrade is done: hello, then every unacknowledged result
    effects = peer.receive_data(message, now)    for each text message; `heard(now)` for WebSocket pings and pongs
    effects = peer.tick(now)                     at `peer.next_due`, also while there is no socket
    peer.may_start(request_id, now)              at the moment of starting; False: do not
    effects = peer.finish(frame, now)            an ExecuteResult, TurnFinal or TurnError is journaled
    effects = peer.closed(code, reason, now)     the socket ended; `refused` where it never opened

Effects are those of `effects.py`, to be carried out in order. Times are monotonic ms of a clock that counts suspended
time, so that a laptop that slept knows how long.

What holds on this end. Every gateway is a base one until it says `welcome`: no v2 frame is sent, no pong is relied on.
A requestId is started once, whatever is delivered (`journal.py` is the table). Trust in leases ends `lease - 5 s` after
the sending of the last ping (or hello) that was answered; past it nothing leased is started, and what runs under
`onLost` ``fail`` or ``resend`` is stopped. `tick` checks that before anything else, so call it first after any stall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from vespid_protocol import effects as fx
from vespid_protocol.codec import (
    MAX_FRAME_BYTES,
    FrameInvalid,
    Unknown,
    clean_message,
    decode_clean_gateway_frame,
)
from vespid_protocol.codes import CloseCode
from vespid_protocol.comeback import Comeback
from vespid_protocol.connection import HEARTBEAT_MS, STALE_MS
from vespid_protocol.entries import RESEND_FIRST_MS, Entries, Entry
from vespid_protocol.frames import (
    PROTOCOL_VERSION,
    Capabilities,
    Draining,
    ErrorFrame,
    Execute,
    ExecuteAck,
    ExecuteCancel,
    GatewayFrame,
    Hello,
    MemoryQuery,
    MemorySync,
    OpenSession,
    Ping,
    Pong,
    Protocol,
    Reconnect,
    SessionCancel,
    SessionOpen,
    SessionTurn,
    TurnEvent,
    Welcome,
)
from vespid_protocol.requests import Effects, Outcome, Requests
from vespid_protocol.trust import Trust

EXPIRE_EVERY_MS = 60_000

_NOTHING: Effects = ()


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself in every hello."""

    agent_version: str
    name: str
    # New at each start of the process.
    instance_id: str
    # The journal's on disk.
    journal_id: str
    capabilities: Capabilities = Capabilities()
    features: tuple[str, ...] = ()


class AgentPeer:
    """The agent's side of the protocol."""

    def __init__(
        self,
        identity: Identity,
        entries: Iterable[Entry] = (),
        *,
        random: Callable[[], float],
        open_sessions: Callable[[], tuple[OpenSession, ...]] = tuple,
    ) -> None:
        self.identity = identity
        # By requestId; everything that must not be started again.
        self.entries = Entries(entries)
        # A socket is up and its hello was sent.
        self.is_open = False
        # This socket's gateway speaks v2, by these figures; None until it says so.
        self.welcome: Welcome | None = None
        # Takes nothing new.
        self.draining: Draining | None = None
        # Between the last ping that was answered on this socket and its answer.
        self.round_trip_ms: int | None = None
        self._open_sessions = open_sessions
        self._trust = Trust()
        self._comeback = Comeback(random)
        self._requests = Requests(self.entries, self._trust)
        self._epoch_offset = 0
        self._last_heard = 0
        self._hello_at = 0
        self._next_ping = 0
        self._next_probe = 0
        self._next_expiry = 0
        self._handlers: dict[type, Callable[[Any, int], Effects]] = {
            Pong: self._pong,
            Execute: lambda frame, now: self._requests.execute(frame, now, has_room=self._has_room),
            ExecuteAck: self._requests.ack,
            ExecuteCancel: self._requests.cancel,
            Welcome: self._welcome,
            Reconnect: self._reconnect,
            ErrorFrame: self._error,
            SessionOpen: self._session,
            SessionTurn: lambda frame, now: self._requests.turn(frame, now, has_room=self._has_room),
            SessionCancel: self._cancel_turn,
            MemorySync: self._session,
            MemoryQuery: self._session,
        }

    # --- the socket --------------------------------------------------------------------------------------------------

    def opened(self, now: int, epoch_ms: int) -> Effects:
        """A socket is up. `epoch_ms` is the wall clock's, for the `ts` of pings."""
        self.is_open = True
        self.welcome = None
        self.round_trip_ms = None
        self._epoch_offset = epoch_ms - now
        self._last_heard = self._hello_at = now
        self._next_ping = now + HEARTBEAT_MS
        self._next_probe = now + STALE_MS // 3
        self._trust.opened()
        self._requests.opened()
        unacked = self.entries.unacknowledged()
        for entry in unacked:
            entry.resend_at, entry.resend_ms = None, RESEND_FIRST_MS
            # Meanwhile it may have been leased to us anew, by an `execute` that was lost with the old socket. This is
            # our one result of it either way; without an epoch it counts as the last one granted to us, and under the
            # old epoch it would be acknowledged, discarded and lost.
            entry.lease_epoch = None
            entry.sent = entry.outdated = 0
        return (fx.Send(self._own_hello()), *[self._requests.answer(entry) for entry in unacked])

    def update(self, identity: Identity) -> Effects:
        """What the agent can do has changed: say hello again."""
        self.identity = identity
        return (fx.Send(self._own_hello()),) if self.is_open else _NOTHING

    def closed(self, code: int, reason: str, now: int) -> Effects:
        """The socket ended with this code (1006 where there was none). Answers `Reconnect` or `Exit`."""
        self.is_open = False
        self.welcome = None
        return self._comeback.closed(code, reason, now)

    def refused(self, code: str | None, reason: str, retry_after_ms: int | None = None) -> Effects:
        """The upgrade was refused with this error code (None: no answer of ours, or none at all)."""
        return self._comeback.refused(code, reason, retry_after_ms)

    def receive_data(self, data: bytes | str, now: int) -> Effects:
        """One text message, whatever it holds."""
        if not self.is_open:
            return _NOTHING
        self._last_heard = now
        try:
            frame = decode_clean_gateway_frame(clean_message(data)[0])
        except FrameInvalid as problem:
            return (fx.Counted("bad_frame", f"{problem.frame_type or '?'}: {problem.field}"[:128]),)
        if type(frame) is Unknown:
            return (fx.Counted("unknown_frame", frame.type[:64]),)
        return self._handlers[type(frame)](frame, now)

    def receive(self, frame: GatewayFrame, now: int) -> Effects:
        """One decoded frame."""
        if not self.is_open:
            return _NOTHING
        self._last_heard = now
        return self._handlers[type(frame)](frame, now)

    def heard(self, now: int) -> None:
        """A WebSocket ping or pong came: the gateway lives. It renews no trust."""
        self._last_heard = now

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def heartbeat_ms(self) -> int:
        return HEARTBEAT_MS if self.welcome is None else max(self.welcome.heartbeat_ms, 1)

    @property
    def stale_ms(self) -> int:
        return STALE_MS if self.welcome is None else max(self.welcome.stale_ms, 3)

    @property
    def max_frame_bytes(self) -> int:
        """How large a frame may be; results beyond it are `failed RESULT_TOO_LARGE` (`codec.fit_result`)."""
        return MAX_FRAME_BYTES if self.welcome is None else self.welcome.max_frame_bytes

    @property
    def max_in_flight(self) -> int:
        """How many requests at once: what we said, or less where the gateway said less."""
        own = self.identity.capabilities.room
        return own if self.welcome is None else min(own, max(self.welcome.max_in_flight, 1))

    @property
    def _has_room(self) -> bool:
        return self.draining is None and self.entries.active < self.max_in_flight

    @property
    def in_flight(self) -> int:
        """How many requests are accepted or running."""
        return self.entries.active

    @property
    def heard_at(self) -> int:
        """When the gateway last gave a sign of life on this socket."""
        return self._last_heard

    @property
    def trusted_until(self) -> int | None:
        """Until when leases may be relied on. None: none was ever given (base gateways have none)."""
        return self._trust.until

    @property
    def next_due(self) -> int:
        """When `tick` has something to do."""
        due = self._next_expiry
        if self.is_open:
            due = min(due, self._next_ping, self._next_probe, self._last_heard + self.stale_ms)
        end = self._trust.next_end
        return due if end is None or not self.entries.active else min(due, end)

    def is_trusted(self, now: int) -> bool:
        """Whether leases may still be relied on."""
        return self._trust.holds(now)

    def tick(self, now: int) -> Effects:
        """What the time demands; the trust comes first."""
        effects: list[fx.Effect] = []
        if self._trust.ends(now):
            effects += self._requests.stop_untrusted(now)
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_EVERY_MS
            effects += [fx.Forget(request_id) for request_id in self.entries.expire(now)]
        if not self.is_open:
            return tuple(effects)
        if now - self._last_heard >= self.stale_ms:
            self.is_open = False
            effects.append(fx.Close(CloseCode.STALE, "nothing heard"))
            return tuple(effects)
        if now >= self._next_ping:
            self._next_ping = now + self.heartbeat_ms
            ping = Ping(ts=now + self._epoch_offset)
            self._trust.pinged(ping.ts, now)
            effects.append(fx.Send(ping))
        if now >= self._next_probe:
            self._next_probe = now + self.stale_ms // 3
            effects.append(fx.Probe())
            if self.welcome is not None:  # a v2 gateway acknowledges everything; what it has not, it may have lost
                effects += [self._requests.answer(entry) for entry in self.entries.due_again(now)]
        return tuple(effects)

    # --- work --------------------------------------------------------------------------------------------------------

    def may_start(self, request_id: str, now: int) -> bool:
        """Whether accepted work may start at this moment; if so it counts as started: journal that first.

        False: do nothing. Trust has ended and it was given back, or a `Stop` is on its way to you and what it asks for
        is what ends it, or it was started already.
        """
        return self._requests.may_start(request_id, now)

    def decline(self, request_id: str, now: int) -> Effects:
        """Accepted work that cannot be started here after all (full disk, a session that is not open): elsewhere."""
        effects = self._requests.decline(request_id, now)
        return effects if self.is_open else _NOTHING

    def finish(self, outcome: Outcome, now: int) -> Effects:
        """The work ended and `outcome` is journaled: send it, under the epoch that now holds.

        What was stopped because trust ended, and has nothing to show for it, is only kept for whoever asks.
        """
        effects = self._requests.finish(outcome, now)
        return effects if self.is_open else _NOTHING

    def abandon(self, request_id: str, now: int) -> None:
        """A turn was stopped because this process ends: the gateway sees the socket close and has somebody else answer.
        Its end is kept for whoever asks, and not sent."""
        self._requests.abandon(request_id, now)

    def tell(self, frame: Any) -> Effects:
        """Send something about running work (events, deltas), if there is a socket and a peer that knows the frame."""
        if not self.is_open or (self.welcome is None and isinstance(frame, TurnEvent | Draining)):
            return _NOTHING
        return (fx.Send(frame),)

    def drain(self, reason: str, deadline_ms: int | None = None) -> Effects:
        """Take nothing new from now on, and say so where that is understood; heartbeats go on."""
        self.draining = Draining(reason=reason, deadline_ms=deadline_ms)
        return self.tell(self.draining)

    # --- frames, one by one ------------------------------------------------------------------------------------------

    def _welcome(self, frame: Welcome, now: int) -> Effects:
        self.welcome = frame
        self._comeback.welcomed()
        self._next_ping = min(self._next_ping, now + self.heartbeat_ms)
        self._trust.renew(self._hello_at, frame.lease_ms)
        for entry in self.entries.unacknowledged():
            entry.resend_at, entry.resend_ms = now + RESEND_FIRST_MS, RESEND_FIRST_MS
        return (fx.Welcomed(frame), *((fx.Send(self.draining),) if self.draining else ()))

    def _pong(self, frame: Pong, now: int) -> Effects:
        sent = self._trust.answered(frame.ts)
        if sent is not None:
            self.round_trip_ms = now - sent
        if sent is not None and self.welcome is not None:
            self._trust.renew(sent, self.welcome.lease_ms)
        return _NOTHING

    def _reconnect(self, frame: Reconnect, now: int) -> Effects:
        return (fx.Migrate(frame.after_ms, frame.reason),)

    def _error(self, frame: ErrorFrame, now: int) -> Effects:
        return (fx.Counted("bad_frame", f"gateway says {frame.code}: {frame.message}"[:256]),)

    def _cancel_turn(self, frame: SessionCancel, now: int) -> Effects:
        return self._requests.cancel_turn(frame, now, speaks_v2=self.welcome is not None)

    def _session(self, frame: fx.SessionOrder, now: int) -> Effects:
        return (fx.Deliver(frame),)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _own_hello(self) -> Hello:
        return Hello(
            agent_version=self.identity.agent_version,
            name=self.identity.name,
            capabilities=self.identity.capabilities,
            protocol=Protocol(version=PROTOCOL_VERSION, features=self.identity.features),
            instance_id=self.identity.instance_id,
            journal_id=self.identity.journal_id,
            in_flight=self.entries.in_flight(),
            unacked=tuple(entry.request_id for entry in self.entries.unacknowledged()),
            open_sessions=self._open_sessions(),
        )
