"""What server processes tell each other through an inbox or a channel.

Every message is a hint about a truth that is in Postgres: losing one costs time, never work. None carries a secret.
"""

from typing import Literal

import msgspec

from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, SessionId


class Message(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="t"):
    """Base of all that travels; the tag is the class's name."""


class Offer(Message, frozen=True, tag="offer"):
    """To the edge that owns the executor's socket: grant this request and send `execute`."""

    # Request that a reservation was made for.
    request_id: RequestId
    org_id: OrgId
    executor_id: ExecutorId
    # Connection the reservation was made on; the grant is refused on another.
    connection_epoch: int
    # When the reservation was made, epoch ms by the Redis server's clock.
    reserved_at_ms: int = 0
    # The row to insert in the same statement (synchronous dispatch), JSON; absent when the row is there.
    create: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    # Process whose caller waits for the outcome; it is sent a `ResultReady`.
    reply_to: ProcessId | None = None


class OfferRefused(Message, frozen=True, tag="refused"):
    """From the edge to whoever offered: not granted here; choose again without this executor."""

    request_id: RequestId
    org_id: OrgId
    executor_id: ExecutorId
    reason: str


class OfferAnswered(Message, frozen=True, tag="answered"):
    """From the edge to whoever offered a row to create: one stands under that id already; read it."""

    request_id: RequestId
    # conflict: it is another organization's, or another payload's.
    outcome: Literal["exists", "conflict"]


class Withdrawn(Message, frozen=True, tag="withdrawn"):
    """To an edge that seemed to be gone: nobody is proposed to this executor any more. If it lives, it reports it."""

    executor_id: ExecutorId
    connection_epoch: int


class CancelOrder(Message, frozen=True, tag="cancel"):
    """To the edge: send `execute_cancel` to the executor that holds this request."""

    request_id: RequestId
    executor_id: ExecutorId
    lease_epoch: int
    reason: str
    # The request has ended in Postgres: whatever the executor still does about it, its room is free.
    is_over: bool = False


class Superseded(Message, frozen=True, tag="superseded"):
    """To every edge: a newer connection of this executor has said hello; close older ones."""

    executor_id: ExecutorId
    connection_epoch: int
    # Of the newer connection; the same one means that the process only changed sockets.
    instance_id: str | None = None


class ResultReady(Message, frozen=True, tag="result"):
    """To the process whose caller waits: the request is terminal in Postgres; without `is_whole`, read it there."""

    request_id: RequestId
    status: Literal["succeeded", "failed", "cancelled"]
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    is_whole: bool = False


class ReportCapacity(Message, frozen=True, tag="report"):
    """To every edge: a partition is cold; upsert the executors you hold in it (`None`: the managed ones)."""

    org_id: OrgId | None
    # Inbox that wants to hear when it is done, with what to quote.
    reply_to: ProcessId
    nonce: str


class CapacityReported(Message, frozen=True, tag="reported"):
    """From an edge: all my executors of that partition are in."""

    process_id: ProcessId
    nonce: str


class CancelTurn(Message, frozen=True, tag="cancelTurn"):
    """To every edge: send `session_cancel` to the executor that has this turn."""

    request_id: RequestId
    session_id: SessionId
    org_id: OrgId
    executor_id: ExecutorId
    # It has ended in Postgres: whatever the executor still does about it, its room is free.
    is_over: bool = False


class TextWanted(Message, frozen=True, tag="textWanted"):
    """To the edge whose socket a running turn is on: how far is its text?"""

    session_id: SessionId
    request_id: RequestId
    reply_to: ProcessId


class TextSoFar(Message, frozen=True, tag="text"):
    """From that edge. What came meanwhile as `session_news.Delta` overlaps; offsets tell by how much."""

    session_id: SessionId
    request_id: RequestId
    user_seq: int
    turn_epoch: int
    text: str


class FeedHint(Message, frozen=True, tag="feed"):
    """To every process: `control_feed` has a new row; read it now instead of at the next poll."""

    kind: str
    id: int = 0


AnyMessage = (
    Offer
    | OfferRefused
    | OfferAnswered
    | Withdrawn
    | CancelOrder
    | Superseded
    | ResultReady
    | ReportCapacity
    | CapacityReported
    | CancelTurn
    | TextWanted
    | TextSoFar
    | FeedHint
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """The message as it lies in Redis."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """The message in `data`; raises `msgspec.DecodeError` (or its subclass) on anything else."""
    return _decoder.decode(data)
