"""What a client socket tells of one session, put in order. Pure: frames in, items out.

Events come by `seq`, each once, also over a lost socket. Deltas name the message that they answer, and so do the events
that end a turn; of the others it is worked out here: turns run one at a time, in the order of their messages. An
`agent_final` that names none, as those of older servers, answers the oldest that waits.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from vespid_client.models.model import Model

FAILOVER = "session_executor_failover"
RESTARTED = "turn_restarted"
_OF_A_TURN = frozenset({"agent_message", "tool_call", "tool_result", "agent_handoff"})
# Stands for a message that was sent before what we were told.
_EARLIER = 0


@dataclass(frozen=True)
class Delta:
    """More of the answer to the message `turn`."""

    turn: int
    text: str


@dataclass(frozen=True)
class Restarted:
    """The text of the turn begins anew: what was shown of it is void."""

    turn: int


@dataclass(frozen=True)
class Happened:
    """A persisted event. `turn`: the seq of the message that it is about or answers; None: of none, or unknown."""

    seq: int
    event_type: str
    level: str
    payload: Any
    created_at: str
    turn: int | None


@dataclass(frozen=True)
class Final:
    """The whole answer to the message `turn`."""

    turn: int
    seq: int
    text: str
    output: Any


@dataclass(frozen=True)
class Failed:
    """The message `turn` has no answer but this."""

    turn: int
    seq: int
    code: str
    message: str


class Standing(Model, frozen=True, kw_only=True):
    """Where a session lives."""

    session_id: str
    pinned_executor_id: str | None
    pinned_executor_pool: str | None
    pinned_agent_id: str | None
    routed_agent_id: str | None
    scope: str
    execution_mode: str


ChatItem = Delta | Restarted | Happened | Final | Failed | Standing


class EventFrame(msgspec.Struct, frozen=True, rename="camel", tag="session_event_v2"):
    """See docs/protocol.md, as the others."""

    session_id: str
    seq: int
    event_type: str
    level: str
    payload: Any
    created_at: str


class DeltaFrame(msgspec.Struct, frozen=True, rename="camel", tag="agent_delta"):
    """See docs/protocol.md."""

    session_id: str
    seq: int
    content: str


class Conversation:
    """The order of things in one session."""

    def __init__(self, after_seq: int = 0) -> None:
        # Of the last event that was told.
        self.seq = after_seq
        # Messages that have no answer yet, the oldest first.
        self._waiting: list[int] = []
        # What was told of the running turn's text, and how much of it was heard again since the socket was lost.
        self._text_of = _EARLIER
        self._text = ""
        self._again: str | None = None

    def rejoined(self) -> None:
        """The next deltas begin with the text so far."""
        self._again = ""

    def event(self, frame: EventFrame) -> list[ChatItem]:
        """What an event tells."""
        if frame.seq <= self.seq:
            return []
        self.seq = frame.seq
        payload = frame.payload if isinstance(frame.payload, dict) else {}
        turn = self._turn_of(frame, payload)
        happened = Happened(frame.seq, frame.event_type, frame.level, frame.payload, frame.created_at, turn)
        if turn is None or turn == _EARLIER:
            return [happened]
        if frame.event_type == "agent_final":
            text = str(payload.get("message", ""))
            return [*self._rest(turn, text), happened, Final(turn, frame.seq, text, payload.get("output"))]
        if frame.event_type == "error":
            code, message = str(payload.get("code", "")), str(payload.get("message", ""))
            return [happened, Failed(turn, frame.seq, code, message)]
        if payload.get("action") in (FAILOVER, RESTARTED):
            had_text = self._text_of == turn and bool(self._text)
            self._text, self._again = "", None
            return [happened, Restarted(turn)] if had_text else [happened]
        return [happened]

    def delta(self, frame: DeltaFrame) -> list[ChatItem]:
        """What a piece of text adds."""
        if frame.seq != self._text_of:
            self._text_of, self._text, self._again = frame.seq, "", None
        if self._again is None:
            self._text += frame.content
            return [Delta(frame.seq, frame.content)]
        self._again += frame.content
        if self._text.startswith(self._again):
            if len(self._again) == len(self._text):
                self._again = None
            return []
        known, now = self._text, self._again
        self._text, self._again = now, None
        if now.startswith(known):
            return [Delta(frame.seq, now[len(known) :])]
        return [Restarted(frame.seq), Delta(frame.seq, now)]

    def _rest(self, turn: int, whole: str) -> list[ChatItem]:
        """What was not heard of the answer's text while it was made, so that the deltas tell all of it."""
        known = self._text if self._text_of == turn else ""
        if known.endswith(whole):
            return []
        if whole.startswith(known):
            return [Delta(turn, whole[len(known) :])]
        return [Restarted(turn), Delta(turn, whole)]

    def _turn_of(self, frame: EventFrame, payload: dict[str, Any]) -> int | None:
        if frame.event_type == "user_message":
            self._waiting.append(frame.seq)
            return frame.seq
        if frame.event_type in ("agent_final", "error"):
            turn = payload.get("userEventSeq")
            if turn in self._waiting:
                self._waiting.remove(turn)
                return int(turn)
            if frame.event_type == "error":
                return turn if isinstance(turn, int) else None
            if self._waiting and (turn is None or self._waiting[0] == _EARLIER):
                return self._waiting.pop(0)
            return None
        if frame.event_type in _OF_A_TURN and not self._waiting:
            self._waiting.append(_EARLIER)
        return self._waiting[0] if self._waiting else None
