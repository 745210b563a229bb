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

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from vespid_protocol import effects as fx
from vespid_protocol import journal
from vespid_protocol.backoff import backoff
from vespid_protocol.codec import (
    MAX_FRAME_BYTES,
    FrameInvalid,
    Unknown,
    clean_message,
    decode_clean_gateway_frame,
)
from vespid_protocol.codes import FINAL_CLOSE_CODES, CloseCode, Code
from vespid_protocol.connection import HEARTBEAT_MS, STALE_MS
from vespid_protocol.frames import (
    PROTOCOL_VERSION,
    Capabilities,
    Draining,
    ErrorFrame,
    Execute,
    ExecuteAck,
    ExecuteCancel,
    ExecuteReceived,
    ExecuteResult,
    GatewayFrame,
    Hello,
    InFlight,
    MemoryQuery,
    MemorySync,
    OnLost,
    OpenSession,
    Ping,
    Pong,
    Protocol,
    Reconnect,
    SessionCancel,
    SessionOpen,
    SessionTurn,
    TurnError,
    TurnEvent,
    TurnFinal,
    Welcome,
)

TRUST_MARGIN_MS = 5_000
RESEND_FIRST_MS = 30_000
RESEND_MAX_MS = 300_000
SUPERSEDED_WAIT_MS = (30_000, 60_000)
SUPERSEDED_MAX = 3
SUPERSEDED_WINDOW_MS = 600_000
EXPIRE_EVERY_MS = 60_000

Effects: TypeAlias = tuple[fx.Effect, ...]
Outcome: TypeAlias = ExecuteResult | TurnFinal | TurnError
_NOTHING: Effects = ()
_ACTIVE = (journal.State.ACCEPTED, journal.State.STARTED)
_FINAL_REFUSALS = frozenset({Code.EXECUTOR_TOKEN_INVALID, Code.EXECUTOR_REVOKED, Code.PROTOCOL_UNSUPPORTED})


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


class Entry(msgspec.Struct, kw_only=True):
    """What the peer keeps of one request. The journal on disk holds the same, and the result."""

    request_id: str
    state: journal.State
    # None: a base gateway sent it.
    lease_epoch: int | None = None
    on_lost: OnLost | None = None
    # Set while it is being stopped, to why. `asked_again`: trust had ended, and then it was leased to us anew.
    stopping: Literal["cancelled", "trust_ended", "asked_again"] | None = None
    # A session's turn: no lease, and not listed among what is in flight.
    is_turn: bool = False
    # When it last changed, on the peer's clock; entries from an earlier process have their age subtracted.
    changed_at: int = 0
    # Of a finished one, on a live v2 link: when it is sent once more, and how long is waited after that.
    resend_at: int | None = None
    resend_ms: int = RESEND_FIRST_MS
    # Results of it that went out on this socket under the present epoch, and those under epochs before it: the latter
    # are acknowledged as well, though they were discarded.
    sent: int = 0
    outdated: int = 0
    # What is said of a tombstone when it is asked for again.
    last_word: str = Code.AGENT_DISCONNECTED


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
        self.entries: dict[str, Entry] = {}
        # A socket is up and its hello was sent.
        self.is_open = False
        # This socket's gateway speaks v2, by these figures; None until it says so.
        self.welcome: Welcome | None = None
        # Until when leases may be relied on. None: none was ever given (base gateways have none).
        self.trusted_until: int | None = None
        # The end of trust that was acted on; what is leased later comes with a later one.
        self._ended_trust: int | None = None
        # Takes nothing new.
        self.draining: Draining | None = None
        self._random = random
        self._open_sessions = open_sessions
        self._backoff = backoff(random)
        self._active = 0
        # Lease epochs declined or given back on this socket: another copy of the same `execute` must not be taken after
        # all, for the gateway may have placed it elsewhere by then.
        self._refused: dict[str, int] = {}
        self._epoch_offset = 0
        self._last_heard = 0
        self._hello_at = 0
        self._next_ping = 0
        self._next_probe = 0
        self._next_expiry = 0
        # ts → when it was sent; of pings not yet answered, oldest first.
        self._pings: deque[tuple[int, int]] = deque(maxlen=64)
        self._superseded: deque[int] = deque(maxlen=SUPERSEDED_MAX)
        self._handlers: dict[type, Callable[[Any, int], Effects]] = {
            Pong: self._pong,
            Execute: self._execute,
            ExecuteAck: self._ack,
            ExecuteCancel: self._cancel,
            Welcome: self._welcome,
            Reconnect: self._reconnect,
            ErrorFrame: self._error,
            SessionOpen: self._session,
            SessionTurn: self._session,
            SessionCancel: self._session,
            MemorySync: self._session,
            MemoryQuery: self._session,
        }
        for entry in entries:
            self._restore(entry)

    # --- the socket --------------------------------------------------------------------------------------------------

    def opened(self, now: int, epoch_ms: int) -> Effects:
        """A socket is up. `epoch_ms` is the wall clock's, for the `ts` of pings."""
        self.is_open = True
        self.welcome = None
        self._epoch_offset = epoch_ms - now
        self._last_heard = self._hello_at = now
        self._next_ping = now + HEARTBEAT_MS
        self._next_probe = now + STALE_MS // 3
        self._pings.clear()
        self._refused.clear()
        unacked = self._unacked()
        for entry in unacked:
            entry.resend_at, entry.resend_ms = None, RESEND_FIRST_MS
            # Meanwhile it may have been leased to us anew, by an `execute` that was lost with the old socket. This is
            # our one result of it either way; without an epoch it counts as the last one granted to us, and under the
            # old epoch it would be acknowledged, discarded and lost.
            entry.lease_epoch = None
            entry.sent = entry.outdated = 0
        return (fx.Send(self._own_hello()), *[self._answer(entry) for entry in unacked])

    def update(self, identity: Identity) -> Effects:
        """What the agent can do has changed: say hello again."""
        self.identity = identity
        return (fx.Send(self._own_hello()),) if self.is_open else _NOTHING

    def closed(self, code: int, reason: str, now: int) -> Effects:
        """The socket ended with this code (1006 where there was none). Answers `Reconnect` or `Exit`."""
        self.is_open = False
        self.welcome = None
        if code in FINAL_CLOSE_CODES:
            return (fx.Exit(str(code), reason),)
        if code == CloseCode.SUPERSEDED:
            self._superseded.append(now)
            if len(self._superseded) == SUPERSEDED_MAX and now - self._superseded[0] <= SUPERSEDED_WINDOW_MS:
                return (fx.Exit(str(code), "another process keeps using this credential"),)
            low, high = SUPERSEDED_WAIT_MS
            return (fx.Reconnect(low + int(self._random() * (high - low))),)
        again = fx.Reconnect(next(self._backoff))
        return (fx.Shrink(), again) if code == CloseCode.TOO_BIG else (again,)

    def refused(self, code: str | None, reason: str, retry_after_ms: int | None = None) -> Effects:
        """The upgrade was refused with this error code (None: no answer of ours, or none at all)."""
        if code in _FINAL_REFUSALS:
            return (fx.Exit(str(code), reason),)
        delay = next(self._backoff)
        if retry_after_ms is not None:
            # The server's wish is the least; the jitter comes on top, so that not all come at once.
            delay += retry_after_ms
        return (fx.Reconnect(delay),)

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
    def in_flight(self) -> int:
        """How many requests are accepted or running."""
        return self._active

    @property
    def next_due(self) -> int:
        """When `tick` has something to do."""
        due = self._next_expiry
        if self.is_open:
            due = min(due, self._next_ping, self._next_probe, self._last_heard + self.stale_ms)
        if self.trusted_until is not None and self._active and self.trusted_until != self._ended_trust:
            due = min(due, self.trusted_until)
        return due

    def is_trusted(self, now: int) -> bool:
        """Whether leases may still be relied on."""
        return self.trusted_until is not None and now < self.trusted_until

    def tick(self, now: int) -> Effects:
        """What the time demands; the trust comes first."""
        effects: list[fx.Effect] = []
        if self.trusted_until is not None and now >= self.trusted_until != self._ended_trust:
            self._ended_trust = self.trusted_until
            self._stop_untrusted(now, effects)
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_EVERY_MS
            self._expire(now, effects)
        if not self.is_open:
            return tuple(effects)
        if now - self._last_heard >= self.stale_ms:
            self.is_open = False
            effects.append(fx.Close(CloseCode.STALE, "nothing heard"))
            return tuple(effects)
        if now >= self._next_ping:
            self._next_ping = now + self.heartbeat_ms
            ping = Ping(ts=now + self._epoch_offset)
            self._pings.append((ping.ts, now))
            effects.append(fx.Send(ping))
        if now >= self._next_probe:
            self._next_probe = now + self.stale_ms // 3
            effects.append(fx.Probe())
            self._resend(now, effects)
        return tuple(effects)

    # --- work --------------------------------------------------------------------------------------------------------

    def may_start(self, request_id: str, now: int) -> bool:
        """Whether accepted work may start at this moment; if so it counts as started: journal that first.

        False: do nothing. Trust has ended and it was given back, or a `Stop` is on its way to you and what it asks for
        is what ends it, or it was started already.
        """
        entry = self.entries.get(request_id)
        if entry is None or entry.stopping is not None or entry.state is not journal.State.ACCEPTED:
            return False
        if entry.lease_epoch is not None and not self.is_trusted(now):
            self._give_back(entry, now)
            return False
        self._move(entry, journal.Event.START, now)
        return True

    def decline(self, request_id: str, now: int) -> Effects:
        """Accepted work that cannot be started here after all (full disk): it goes elsewhere."""
        entry = self.entries.get(request_id)
        if entry is None or entry.state is not journal.State.ACCEPTED:
            return _NOTHING
        self._give_back(entry, now)
        return self._decline(request_id, entry.lease_epoch)

    def begin_turn(self, request_id: str, now: int) -> None:
        """A session's turn runs: its end will be kept until it is acknowledged."""
        if request_id not in self.entries:
            entry = Entry(request_id=request_id, state=journal.State.NONE, is_turn=True)
            self._move(entry, journal.Event.EXECUTE, now)
            self._move(entry, journal.Event.START, now)

    def finish(self, outcome: Outcome, now: int) -> Effects:
        """The work ended and `outcome` is journaled: send it, under the epoch that now holds.

        What was stopped because trust ended, and has nothing to show for it, is only kept for whoever asks.
        """
        entry = self.entries.get(outcome.request_id)
        if entry is None or entry.state not in _ACTIVE:
            return _NOTHING
        given_up = isinstance(outcome, ExecuteResult) and outcome.status == "failed"
        if entry.stopping == "trust_ended" and given_up:
            self._move(entry, journal.Event.ABANDON, now)
            return _NOTHING
        self._move(entry, journal.Event.FINISH, now)
        if not self.is_open:
            return _NOTHING
        if isinstance(outcome, ExecuteResult) and outcome.lease_epoch != entry.lease_epoch:
            outcome = msgspec.structs.replace(outcome, lease_epoch=entry.lease_epoch)
        entry.sent += 1
        return (fx.Send(outcome),)

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
        self._backoff = backoff(self._random)
        self._next_ping = min(self._next_ping, now + self.heartbeat_ms)
        self._trust(self._hello_at)
        for entry in self._unacked():
            entry.resend_at, entry.resend_ms = now + RESEND_FIRST_MS, RESEND_FIRST_MS
        return (fx.Welcomed(frame), *((fx.Send(self.draining),) if self.draining else ()))

    def _pong(self, frame: Pong, now: int) -> Effects:
        pings = self._pings
        while pings and pings[0][0] <= frame.ts:
            ts, sent = pings.popleft()
            if ts == frame.ts:
                self._trust(sent)
        return _NOTHING

    def _execute(self, frame: Execute, now: int) -> Effects:
        entry = self.entries.get(frame.request_id)
        if entry is None:
            return self._accept(frame, now)
        held = -1 if entry.lease_epoch is None else entry.lease_epoch
        row = journal.find(entry.state, journal.Event.EXECUTE, held_epoch=held, epoch=frame.lease_epoch)
        effects: list[fx.Effect] = []
        for effect in row.effects:
            match effect:
                case journal.Effect.IGNORE:
                    effects.append(fx.Counted("stale_execute"))
                case journal.Effect.ADOPT_EPOCH if frame.lease_epoch is not None:
                    if entry.lease_epoch is not None:  # without one a result was good under whichever was granted
                        entry.outdated += entry.sent
                        entry.sent = 0
                    entry.lease_epoch = frame.lease_epoch
                    entry.on_lost = frame.on_lost
                    effects.append(fx.Adopt(frame.request_id, frame.lease_epoch))
                case journal.Effect.SAY_RECEIVED:
                    if entry.stopping == "trust_ended":
                        entry.stopping = "asked_again"
                    received = ExecuteReceived(request_id=frame.request_id, lease_epoch=entry.lease_epoch)
                    effects.append(fx.Send(received))
                case journal.Effect.ANSWER:
                    effects.append(self._answer(entry))
                case _:
                    continue
        self._arrive(entry, row, now)
        return tuple(effects)

    def _accept(self, frame: Execute, now: int) -> Effects:
        epoch = frame.lease_epoch
        leased_badly = epoch is not None and (
            not self.is_trusted(now) or epoch <= self._refused.get(frame.request_id, -1)
        )
        if self.draining is not None or self._active >= self.max_in_flight or leased_badly:
            return self._decline(frame.request_id, epoch)
        entry = Entry(
            request_id=frame.request_id,
            state=journal.State.NONE,
            lease_epoch=epoch,
            on_lost=frame.on_lost,
        )
        self._move(entry, journal.Event.EXECUTE, now)
        return (fx.Send(ExecuteReceived(request_id=frame.request_id, lease_epoch=epoch)), fx.Start(frame))

    def _decline(self, request_id: str, lease_epoch: int | None) -> Effects:
        if not self.is_open:
            return _NOTHING
        if lease_epoch is not None:
            self._refused[request_id] = lease_epoch
        declined = ExecuteResult(
            request_id=request_id, status="failed", error=Code.EXECUTOR_OVER_CAPACITY, lease_epoch=lease_epoch
        )
        return (fx.Send(declined),)

    def _give_back(self, entry: Entry, now: int) -> None:
        """Accepted and never started: as if it had not come, and not to be taken under this epoch any more."""
        if entry.lease_epoch is not None:
            self._refused[entry.request_id] = entry.lease_epoch
        self._move(entry, journal.Event.GIVE_BACK, now)

    def _ack(self, frame: ExecuteAck, now: int) -> Effects:
        entry = self.entries.get(frame.request_id)
        if entry is None or entry.state is not journal.State.FINISHED:
            return _NOTHING
        if entry.outdated:
            # Acknowledged because it was discarded; the result under the present epoch is still on its way.
            entry.outdated -= 1
            return _NOTHING
        self._move(entry, journal.Event.ACK, now)
        return (fx.Bury(frame.request_id),)

    def _cancel(self, frame: ExecuteCancel, now: int) -> Effects:
        request_id = frame.request_id
        entry = self.entries.get(request_id)
        if entry is None:
            entry = Entry(request_id=request_id, state=journal.State.NONE, last_word=Code.NODE_EXECUTION_CANCELLED)
            self._move(entry, journal.Event.CANCEL, now)
            return (fx.Bury(request_id), self._answer(entry))
        row = journal.find(entry.state, journal.Event.CANCEL)
        if journal.Effect.STOP in row.effects:
            if entry.stopping == "cancelled":
                return _NOTHING
            entry.stopping = "cancelled"
            return (fx.Stop(request_id, "cancelled"),)
        self._arrive(entry, row, now)
        return (self._answer(entry),)

    def _reconnect(self, frame: Reconnect, now: int) -> Effects:
        return (fx.Migrate(frame.after_ms, frame.reason),)

    def _error(self, frame: ErrorFrame, now: int) -> Effects:
        return (fx.Counted("bad_frame", f"gateway says {frame.code}: {frame.message}"[:256]),)

    def _session(self, frame: fx.SessionOrder, now: int) -> Effects:
        return (fx.Deliver(frame),)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _own_hello(self) -> Hello:
        """Work being stopped for want of trust is not listed: the gateway is right to think it lost."""
        return Hello(
            agent_version=self.identity.agent_version,
            name=self.identity.name,
            capabilities=self.identity.capabilities,
            protocol=Protocol(version=PROTOCOL_VERSION, features=self.identity.features),
            instance_id=self.identity.instance_id,
            journal_id=self.identity.journal_id,
            in_flight=tuple(
                InFlight(request_id=entry.request_id, lease_epoch=entry.lease_epoch)
                for entry in self.entries.values()
                if entry.state in _ACTIVE and entry.stopping != "trust_ended" and not entry.is_turn
            ),
            unacked=tuple(entry.request_id for entry in self._unacked()),
            open_sessions=self._open_sessions(),
        )

    def _unacked(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.state is journal.State.FINISHED]

    def _answer(self, entry: Entry) -> fx.Effect:
        """The journaled result, or the last word where only a tombstone is left."""
        if entry.state is not journal.State.TOMBSTONE:
            entry.sent += 1
            return fx.Answer(entry.request_id, entry.lease_epoch)
        return fx.Send(
            ExecuteResult(
                request_id=entry.request_id,
                status="failed",
                error=entry.last_word,
                error_message="this request already ended here",
                lease_epoch=entry.lease_epoch,
            )
        )

    def _restore(self, entry: Entry) -> None:
        """An entry of an earlier process, with what its end does to it."""
        row = journal.find(entry.state, journal.Event.RESTART, moves_when_lost=entry.on_lost == "resend")
        if row.target is journal.State.NONE:
            return
        entry.state = row.target or entry.state
        entry.stopping = None
        self.entries[entry.request_id] = entry

    def _move(self, entry: Entry, event: journal.Event, now: int) -> None:
        self._arrive(entry, journal.find(entry.state, event), now)

    def _arrive(self, entry: Entry, row: journal.JournalRow, now: int) -> None:
        """Where the row leads, with the count of what is active kept right."""
        if row.target is None or row.target is entry.state:
            return
        self._active += (row.target in _ACTIVE) - (entry.state in _ACTIVE)
        entry.state = row.target
        entry.changed_at = now
        entry.resend_at = None
        if row.target is journal.State.NONE:
            self.entries.pop(entry.request_id, None)
            return
        if row.target is journal.State.FINISHED:
            entry.resend_at, entry.resend_ms = now + RESEND_FIRST_MS, RESEND_FIRST_MS
        self.entries[entry.request_id] = entry

    def _trust(self, sent: int) -> None:
        """Something sent at `sent` was answered by a gateway with leases."""
        if self.welcome is not None:
            until = sent + self.welcome.lease_ms - TRUST_MARGIN_MS
            self.trusted_until = until if self.trusted_until is None else max(self.trusted_until, until)

    def _stop_untrusted(self, now: int, effects: list[fx.Effect]) -> None:
        for entry in list(self.entries.values()):
            if entry.state not in _ACTIVE or entry.lease_epoch is None or entry.stopping is not None:
                continue
            if entry.state is journal.State.ACCEPTED:
                self._give_back(entry, now)
            elif entry.on_lost != "wait":
                entry.stopping = "trust_ended"
                effects.append(fx.Stop(entry.request_id, "trust_ended"))

    def _resend(self, now: int, effects: list[fx.Effect]) -> None:
        """A v2 gateway acknowledges everything; what it has not, it may have failed to commit."""
        if self.welcome is None:
            return
        for entry in self._unacked():
            if entry.resend_at is not None and now >= entry.resend_at:
                entry.resend_ms = min(entry.resend_ms * 2, RESEND_MAX_MS)
                entry.resend_at = now + entry.resend_ms
                effects.append(self._answer(entry))

    def _expire(self, now: int, effects: list[fx.Effect]) -> None:
        due = [
            entry
            for entry in self.entries.values()
            if entry.state not in _ACTIVE and now - entry.changed_at >= journal.RETENTION_MS
        ]
        for entry in due:
            self._move(entry, journal.Event.EXPIRE, now)
            effects.append(fx.Forget(entry.request_id))
