"""The life of one executor socket, as its gateway sees it.

    authenticating ──▶ connected ──hello──▶ base | v2 ──▶ draining ──▶ closed

Authentication ends before the upgrade with an HTTP answer, so a refused peer never has a socket. Between upgrade
and the first `hello` only results are heard (they may be all that an agent has to say); from the `hello` on it is
routable. What it says in the `hello` decides its layer; a later `hello` may raise it to v2, never lower it.
Draining, from either end, takes no new work and finishes what there is. Every way to `closed` takes the socket's
registration away, comparing the connection epoch first: the late close of a superseded socket must not unregister
its successor.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from vespid_protocol.codes import CloseCode
from vespid_protocol.machine import IllegalTransition, Row, index

HEARTBEAT_MS = 10_000
LEASE_MS = 45_000
STALE_MS = 60_000
# Not routable after so many heartbeats that did not come.
MISSED_HEARTBEATS = 2
BAD_FRAMES_MAX = 20
BAD_FRAMES_WINDOW_MS = 60_000
STRIKES_MAX = 3
STRIKES_WINDOW_MS = 600_000
STRIKES_PAUSE_MS = 60_000


class State(StrEnum):
    AUTHENTICATING = "authenticating"
    CONNECTED = "connected"
    BASE = "base"
    V2 = "v2"
    DRAINING = "draining"
    CLOSED = "closed"


class Event(StrEnum):
    ADMITTED = "admitted"
    REFUSED = "refused"
    HELLO_BASE = "hello_base"
    HELLO_V2 = "hello_v2"
    HELLO_UNSPOKEN = "hello_unspoken"
    # Results and turn ends.
    RESULT = "result"
    # Every other frame about work.
    PROGRESS = "progress"
    PING = "ping"
    EXECUTE = "execute"
    PEER_DRAINS = "peer_drains"
    GATEWAY_DRAINS = "gateway_drains"
    # From here on: the ways to end.
    STALE = "stale"
    NOT_TAKEN = "not_taken"
    TOO_MANY_BAD_FRAMES = "too_many_bad_frames"
    TOO_BIG = "too_big"
    SLOW_READER = "slow_reader"
    TOKEN_INVALID = "token_invalid"  # noqa: S105
    REVOKED = "revoked"
    # By another process with the same credential.
    SUPERSEDED = "superseded"
    # By a newer socket of the same process.
    REPLACED = "replaced"
    SHUT_DOWN = "shut_down"
    GONE = "gone"


class Guard(StrEnum):
    """This machine needs none: the events say it all."""


class Effect(StrEnum):
    ANSWER_HTTP = "answer_http"
    WATCH = "watch"
    REGISTER = "register"
    UPDATE = "update"
    DELIVER = "deliver"
    DROP = "drop"
    SEND = "send"
    PONG = "pong"
    UNROUTE = "unroute"
    SEND_RECONNECT = "send_reconnect"
    CLOSE = "close"
    UNREGISTER = "unregister"


ConnectionRow: TypeAlias = Row[State, Event, Guard, Effect]

_READY = (State.BASE, State.V2, State.DRAINING)
_OPEN = (State.CONNECTED, *_READY)
_CLOSING = (Effect.CLOSE, Effect.UNREGISTER)

CLOSES: dict[Event, CloseCode] = {
    Event.HELLO_UNSPOKEN: CloseCode.PROTOCOL_UNSUPPORTED,
    Event.STALE: CloseCode.STALE,
    Event.NOT_TAKEN: CloseCode.STALE,
    Event.TOO_MANY_BAD_FRAMES: CloseCode.POLICY,
    Event.TOO_BIG: CloseCode.TOO_BIG,
    Event.SLOW_READER: CloseCode.SLOW_READER,
    Event.TOKEN_INVALID: CloseCode.TOKEN_INVALID,
    Event.REVOKED: CloseCode.REVOKED,
    Event.SUPERSEDED: CloseCode.SUPERSEDED,
    Event.REPLACED: CloseCode.NORMAL,
    Event.SHUT_DOWN: CloseCode.GOING_AWAY,
}

ROWS: tuple[ConnectionRow, ...] = (
    Row(Event.ADMITTED, (State.AUTHENTICATING,), State.CONNECTED, (), (Effect.WATCH,)),
    Row(Event.REFUSED, (State.AUTHENTICATING,), State.CLOSED, (), (Effect.ANSWER_HTTP,)),
    Row(Event.HELLO_BASE, (State.CONNECTED,), State.BASE, (), (Effect.REGISTER,)),
    Row(Event.HELLO_BASE, _READY, None, (), (Effect.UPDATE,)),
    Row(Event.HELLO_V2, (State.CONNECTED,), State.V2, (), (Effect.REGISTER,)),
    Row(Event.HELLO_V2, (State.BASE,), State.V2, (), (Effect.UPDATE,)),
    Row(Event.HELLO_V2, (State.V2, State.DRAINING), None, (), (Effect.UPDATE,)),
    Row(Event.RESULT, _OPEN, None, (), (Effect.DELIVER,)),
    Row(Event.PROGRESS, (State.CONNECTED,), None, (), (Effect.DROP,)),
    Row(Event.PROGRESS, _READY, None, (), (Effect.DELIVER,)),
    Row(Event.PING, _OPEN, None, (), (Effect.PONG,)),
    Row(Event.EXECUTE, _READY, None, (), (Effect.SEND,)),
    Row(Event.PEER_DRAINS, (State.CONNECTED,), None, (), (Effect.DROP,)),
    Row(Event.PEER_DRAINS, (State.BASE, State.V2), State.DRAINING, (), (Effect.UNROUTE,)),
    Row(Event.PEER_DRAINS, (State.DRAINING,), None),
    Row(Event.GATEWAY_DRAINS, (State.CONNECTED,), State.CLOSED, (), _CLOSING),
    Row(Event.GATEWAY_DRAINS, (State.BASE, State.V2), State.DRAINING, (), (Effect.UNROUTE, Effect.SEND_RECONNECT)),
    Row(Event.GATEWAY_DRAINS, (State.DRAINING,), None, (), (Effect.SEND_RECONNECT,)),
    *(Row(event, _OPEN, State.CLOSED, (), _CLOSING) for event in CLOSES),
    Row(Event.GONE, _OPEN, State.CLOSED, (), (Effect.UNREGISTER,)),
    Row(Event.GONE, (State.CLOSED,), None),
)
_INDEX = {key: rows[0] for key, rows in index(ROWS).items()}


def find(state: State, event: Event) -> ConnectionRow:
    """The line that answers `event`. Raises IllegalTransition where the table has none."""
    row = _INDEX.get((state, event))
    if row is None:
        raise IllegalTransition("connection", state, event)
    return row
