"""An event as the frames that tell it: encoded once, whoever hears it. Pure."""

from collections.abc import Iterator, Sequence

import msgspec

from vespid.domain.moment import iso
from vespid.store.sessions import SessionEventRow, SessionStanding
from vespid_protocol.client_frames import AgentFinal, SessionAck, SessionErrorFrame, SessionEventV2, SessionState
from vespid_protocol.codec import encode
from vespid_protocol.codes import Code
from vespid_protocol.ids import SessionId

_NULL = msgspec.Raw(b"null")
# Before these a client must know where the session lives now.
_BY_THE_HOST = frozenset({"agent_message", "tool_call", "tool_result", "agent_final", "error"})
CHUNK_BYTES = 64 * 1024
FAILOVER = "session_executor_failover"
RESTARTED = "turn_restarted"


class Told(msgspec.Struct, frozen=True, gc=False):
    """One event, as frames."""

    seq: int
    event_type: str
    # `action` of a `system` event.
    action: str | None
    event: bytes
    # Before it: for a user message.
    ack: bytes | None = None
    # Behind it: `agent_final`, or the `session_error` of a turn that failed.
    after: bytes | None = None

    @property
    def voids_text(self) -> bool:
        """The deltas behind it start the text anew."""
        return self.action in (FAILOVER, RESTARTED)

    @property
    def size(self) -> int:
        """Bytes of its event on the wire."""
        return len(self.event)


class _Payload(msgspec.Struct, frozen=True):
    """What is read of payloads; whatever else they hold passes through."""

    message: str = ""
    code: str = ""
    action: str | None = None
    output: msgspec.Raw = _NULL


_decode_payload = msgspec.json.Decoder(_Payload).decode


def tell(row: SessionEventRow) -> Told:
    """The frames of an event."""
    session_id = str(row.session_id)
    created_at = iso(row.created_at)
    ack = after = action = None
    if row.event_type == "user_message":
        ack = encode(SessionAck(session_id=session_id, user_event_seq=row.seq))
    elif row.event_type == "agent_final":
        payload = _payload(row)
        after = encode(
            AgentFinal(
                session_id=session_id,
                seq=row.seq,
                content=payload.message,
                payload=payload.output,
                created_at=created_at,
            )
        )
    elif row.event_type == "error":
        payload = _payload(row)
        after = encode(
            SessionErrorFrame(
                session_id=session_id, code=payload.code or Code.NODE_EXECUTION_FAILED, message=payload.message
            )
        )
    elif row.event_type == "system":
        action = _payload(row).action
    event = SessionEventV2(
        session_id=session_id,
        seq=row.seq,
        event_type=row.event_type,
        level=row.level,
        payload=msgspec.Raw(row.payload) if row.payload is not None else _NULL,
        created_at=created_at,
    )
    return Told(row.seq, row.event_type, action, encode(event), ack, after)


def state_frame(session_id: SessionId, standing: SessionStanding) -> bytes:
    """Where the session lives."""
    pinned = None if standing.pinned_executor_id is None else str(standing.pinned_executor_id)
    return encode(
        SessionState(
            session_id=session_id,
            pinned_executor_id=pinned,
            pinned_executor_pool=standing.pinned_pool,
            pinned_agent_id=pinned,
            routed_agent_id=standing.routed_agent_id,
            scope=standing.scope,
            execution_mode="pinned-node-host",
        )
    )


def place_of_state(events: Sequence[Told]) -> int:
    """Before which of these events a new `session_state` belongs: the failover's own, else the first by the host."""
    for index, told in enumerate(events):
        if told.action == FAILOVER:
            return index
    for index, told in enumerate(events):
        if told.event_type in _BY_THE_HOST:
            return index
    return len(events)


def chunks(told: Sequence[Told]) -> Iterator[Sequence[Told]]:
    """Runs of events that are written before it is looked whether the client keeps up."""
    begin = size = 0
    for index, one in enumerate(told):
        size += one.size
        if size >= CHUNK_BYTES:
            yield told[begin : index + 1]
            begin, size = index + 1, 0
    if begin < len(told):
        yield told[begin:]


def _payload(row: SessionEventRow) -> _Payload:
    if row.payload is None:
        return _Payload()
    try:
        return _decode_payload(row.payload)
    except msgspec.ValidationError:
        # Told as it is; only what would follow it is poorer.
        return _Payload()
