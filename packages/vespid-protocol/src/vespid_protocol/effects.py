"""What the two peers ask the world to do. Small frozen Structs, to be carried out in order.

`match` on them, or look the class up in a table. A peer's answer is a tuple, usually empty or one effect long.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from vespid_protocol.codes import CloseCode
from vespid_protocol.frames import (
    Execute,
    ExecuteEvent,
    ExecuteResult,
    Frame,
    Hello,
    MemoryQuery,
    MemoryQueryResult,
    MemorySync,
    MemorySyncResult,
    SessionCancel,
    SessionOpen,
    SessionOpened,
    SessionTurn,
    TurnDelta,
    TurnError,
    TurnEvent,
    TurnFinal,
    Welcome,
)

SessionReply: TypeAlias = (
    SessionOpened | TurnDelta | TurnEvent | TurnFinal | TurnError | MemorySyncResult | MemoryQueryResult
)
SessionOrder: TypeAlias = SessionOpen | SessionTurn | SessionCancel | MemorySync | MemoryQuery


class _Effect(msgspec.Struct, frozen=True, gc=False):
    pass


# --- both ends -------------------------------------------------------------------------------------------------------


class Send(_Effect, frozen=True):
    """Write this frame to the socket."""

    frame: Frame


class Probe(_Effect, frozen=True):
    """Send a WebSocket ping; call `heard` when its pong comes."""


class Close(_Effect, frozen=True):
    """Close the socket with this code. Nothing else of this connection counts any more."""

    code: CloseCode
    reason: str


class Counted(_Effect, frozen=True):
    """Something for a metric: `what` is one of a closed set, `detail` for the log (cut, from outside)."""

    what: Literal["unknown_frame", "bad_frame", "early_frame", "mended_text", "oversized_frame", "stale_execute"]
    detail: str = ""


# --- at the gateway --------------------------------------------------------------------------------------------------


class Register(_Effect, frozen=True):
    """The first `hello`: write the connection down, reconcile, then call `attach`."""

    hello: Hello


class Update(_Effect, frozen=True):
    """A later `hello`: capabilities may have changed."""

    hello: Hello


class Received(_Effect, frozen=True):
    """The agent has the request in its journal. `lease_epoch` None: the last one granted to this executor."""

    request_id: str
    lease_epoch: int | None


class Declined(_Effect, frozen=True):
    """The agent has no room for what was just sent: place it elsewhere."""

    request_id: str
    lease_epoch: int | None


class Progress(_Effect, frozen=True):
    """An event of a running request."""

    frame: ExecuteEvent
    lease_epoch: int | None


class Result(_Effect, frozen=True):
    """How a request ended: commit it, then call `ack`."""

    frame: ExecuteResult
    lease_epoch: int | None


class Session(_Effect, frozen=True):
    """A frame about a session, for whoever owns the session."""

    frame: SessionReply


class NotTaken(_Effect, frozen=True):
    """A v2 peer said nothing about this `execute` for 5 s: a strike. A `Close` follows."""

    request_id: str
    lease_epoch: int | None


class Silent(_Effect, frozen=True):
    """Two heartbeats missed: give it nothing new until `Audible`."""


class Audible(_Effect, frozen=True):
    """It is heard again."""


class Unroute(_Effect, frozen=True):
    """Give it nothing new; it, or this gateway, is draining."""

    reason: str


class Unregister(_Effect, frozen=True):
    """The socket is over: take its registration away, if it is still this connection epoch's (None: never had one)."""

    connection_epoch: int | None


# --- at the agent ----------------------------------------------------------------------------------------------------


class Start(_Effect, frozen=True):
    """Run this: call `may_start` when it is about to start (then journal `started`), `finish` when it ended."""

    frame: Execute


class Stop(_Effect, frozen=True):
    """Stop the work, then call `finish` with what is left to say (it is told under which code)."""

    request_id: str
    why: Literal["cancelled", "trust_ended"]


class Answer(_Effect, frozen=True):
    """Send the journaled result (or turn end) of this request, under this epoch."""

    request_id: str
    lease_epoch: int | None


class Adopt(_Effect, frozen=True):
    """The request is ours under a higher epoch: journal it with the next write."""

    request_id: str
    lease_epoch: int


class Bury(_Effect, frozen=True):
    """Journal a tombstone: the result was acknowledged, or the request was cancelled before it came."""

    request_id: str


class Forget(_Effect, frozen=True):
    """Drop the journal's entry: it is a day old, or was never started."""

    request_id: str


class Deliver(_Effect, frozen=True):
    """A frame about a session, for the sessions of this agent."""

    frame: SessionOrder


class Welcomed(_Effect, frozen=True):
    """The gateway speaks v2; these are the figures."""

    frame: Welcome


class Migrate(_Effect, frozen=True):
    """This gateway is draining: connect elsewhere after so long, then close the present socket."""

    after_ms: int
    reason: str


class Shrink(_Effect, frozen=True):
    """A frame was too big: replace the largest unacknowledged result by `failed RESULT_TOO_LARGE`."""


class Reconnect(_Effect, frozen=True):
    """Connect again after so long."""

    after_ms: int


class Exit(_Effect, frozen=True):
    """It is final: stop, say why, and exit non-zero."""

    code: str
    reason: str


Effect: TypeAlias = (
    Send
    | Probe
    | Close
    | Counted
    | Register
    | Update
    | Received
    | Declined
    | Progress
    | Result
    | Session
    | NotTaken
    | Silent
    | Audible
    | Unroute
    | Unregister
    | Start
    | Stop
    | Answer
    | Adopt
    | Bury
    | Forget
    | Deliver
    | Welcomed
    | Migrate
    | Shrink
    | Reconnect
    | Exit
)
