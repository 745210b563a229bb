"""Bytes to frames and back.

`decode_agent_frame`, `decode_gateway_frame` and `decode_client_frame` take one text message (str or UTF-8 bytes) and
answer a frame, or `Unknown` for a `type` that is not theirs (to be ignored and counted). A known type with a bad shape
raises `FrameInvalid`, which names the field. Hostile text (see `text.py`) is mended on the way; `decode_*` do not say
how often, `clean_message` does.

Sizes: a message up to the agreed limit is decoded; between that and the hard one (four times as much) it is only
measured and `recover` finds out whose it was; beyond it the socket closes with 1009.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar, get_args

import msgspec

from vespid_protocol.client_frames import ClientFrame
from vespid_protocol.codes import Code
from vespid_protocol.frames import AgentFrame, ExecuteResult, Frame, GatewayFrame, wire_type
from vespid_protocol.text import clean_json, clean_text

T = TypeVar("T")

MAX_FRAME_BYTES = 4 * 1024 * 1024
HARD_LIMIT_FACTOR = 4

_agent_decoder = msgspec.json.Decoder(AgentFrame)
_gateway_decoder = msgspec.json.Decoder(GatewayFrame)
_client_decoder = msgspec.json.Decoder(ClientFrame)
_encoder = msgspec.json.Encoder()
_AGENT_TYPES = frozenset(wire_type(kind) for kind in get_args(AgentFrame))
_GATEWAY_TYPES = frozenset(wire_type(kind) for kind in get_args(GatewayFrame))
_CLIENT_TYPES = frozenset(wire_type(kind) for kind in get_args(ClientFrame))


class FrameInvalid(Exception):
    """The message is not a frame: no JSON object, no `type`, or a known type with a bad shape."""

    def __init__(
        self,
        field: str,
        message: str,
        *,
        request_id: str | None = None,
        frame_type: str | None = None,
        session_id: str | None = None,
    ) -> None:
        super().__init__(f"{field}: {message}")
        # Path of the field that is wrong, like `event.level`; `$` for the message as a whole.
        self.field = field
        # For people; never holds the value that was sent.
        self.message = message
        # What could be recovered of the frame, for the answer.
        self.request_id = request_id
        self.frame_type = frame_type
        self.session_id = session_id


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """A frame of a type that this end does not know; to be ignored and counted."""

    type: str


class Size(IntEnum):
    """What a message's length means."""

    FITS = 0
    # Beyond the agreed limit: not processed, but parsed, so that its request can be told.
    OVER_AGREED = 1
    # Beyond four times the agreed limit: close 1009.
    OVER_HARD = 2


class Envelope(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The part of any frame that says what and whose it is."""

    type: str
    request_id: str | None = None
    lease_epoch: int | None = None
    session_id: str | None = None


class _Whose(msgspec.Struct, rename="camel", gc=False):
    type: msgspec.Raw = msgspec.Raw()
    request_id: msgspec.Raw = msgspec.Raw()
    lease_epoch: msgspec.Raw = msgspec.Raw()
    session_id: msgspec.Raw = msgspec.Raw()


_whose_decoder = msgspec.json.Decoder(_Whose)


def encode(frame: Frame) -> bytes:
    """The frame as compact UTF-8 JSON; what is absent is left out."""
    return _encoder.encode(frame)


def message_bytes(data: bytes | str) -> int:
    """How long the message is on the wire."""
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode("utf-8", "surrogatepass"))


def measure(length: int, agreed: int = MAX_FRAME_BYTES) -> Size:
    """Where a message of `length` bytes stands against the two limits."""
    if length <= agreed:
        return Size.FITS
    return Size.OVER_AGREED if length <= agreed * HARD_LIMIT_FACTOR else Size.OVER_HARD


def clean_message(data: bytes | str) -> tuple[bytes, int]:
    """The message as UTF-8 without NULs and lone surrogates, and how many those were.

    Raises FrameInvalid for bytes that are not UTF-8: what passes through undecoded must be storable as text later.
    """
    if isinstance(data, str):
        try:
            return clean_json(data.encode())
        except UnicodeEncodeError:
            mended, count = clean_text(data)
            cleaned, more = clean_json(mended.encode())
            return cleaned, count + more
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            raise FrameInvalid("$", "not UTF-8") from None
    return clean_json(data)


def decode_agent_frame(data: bytes | str) -> AgentFrame | Unknown:
    """What an agent sent. Raises FrameInvalid."""
    return _decode(_agent_decoder, _AGENT_TYPES, clean_message(data)[0])


def decode_gateway_frame(data: bytes | str) -> GatewayFrame | Unknown:
    """What a gateway sent. Raises FrameInvalid."""
    return _decode(_gateway_decoder, _GATEWAY_TYPES, clean_message(data)[0])


def decode_client_frame(data: bytes | str) -> ClientFrame | Unknown:
    """What a client sent. Raises FrameInvalid."""
    return _decode(_client_decoder, _CLIENT_TYPES, clean_message(data)[0])


def decode_clean_agent_frame(data: bytes) -> AgentFrame | Unknown:
    """`decode_agent_frame` for bytes that came out of `clean_message`."""
    return _decode(_agent_decoder, _AGENT_TYPES, data)


def decode_clean_gateway_frame(data: bytes) -> GatewayFrame | Unknown:
    """`decode_gateway_frame` for bytes that came out of `clean_message`."""
    return _decode(_gateway_decoder, _GATEWAY_TYPES, data)


def recover(data: bytes | str) -> Envelope:
    """What and whose an oversized message is, by a real parse of the whole of it. Raises FrameInvalid.

    An `execute_result` among them fails its request with ``RESULT_TOO_LARGE`` under its requestId and epoch and is
    acknowledged; any other frame is answered with `error`.
    """
    envelope = _envelope(clean_message(data)[0])
    if envelope is None or not envelope.type:
        raise FrameInvalid("$", "not a JSON object with a type")
    return envelope


def _decode(decoder: msgspec.json.Decoder[T], known: frozenset[str], data: bytes) -> T | Unknown:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        return _explain(str(error), data, known)
    except msgspec.DecodeError:
        raise FrameInvalid("$", "not JSON") from None
    except RecursionError:
        raise FrameInvalid("$", "nested too deep") from None


def _explain(problem: str, data: bytes, known: frozenset[str]) -> Unknown:
    """Unknown where the type is; else raises FrameInvalid that names the field."""
    envelope = _envelope(data)
    message, _, path = problem.partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    if envelope is None:
        raise FrameInvalid("$", "not a JSON object")
    if not envelope.type:
        raise FrameInvalid(
            "type", "missing, or not a string", request_id=envelope.request_id, session_id=envelope.session_id
        )
    if field == "type" and envelope.type not in known:
        return Unknown(envelope.type)
    missing = message.partition("missing required field `")[2].rstrip("`")
    if missing:
        field = f"{field}.{missing}" if field else missing
    raise FrameInvalid(
        field or "$",
        message,
        request_id=envelope.request_id,
        frame_type=envelope.type,
        session_id=envelope.session_id,
    )


def _envelope(data: bytes) -> Envelope | None:
    """The identifying fields, each for itself, so that one with a bad shape does not hide the others.

    None where there is no JSON object at all; an empty type where there is no usable one.
    """
    try:
        whose = _whose_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return None
    epoch = _field(whose.lease_epoch, int)
    if epoch is not None and not 0 <= epoch < 1 << 53:
        epoch = None
    return Envelope(_field(whose.type, str) or "", _field(whose.request_id, str), epoch, _field(whose.session_id, str))


def _field(raw: msgspec.Raw, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError:
        return None


def fit_result(result: ExecuteResult, limit: int = MAX_FRAME_BYTES) -> tuple[ExecuteResult, bytes]:
    """The result, or `failed RESULT_TOO_LARGE` in its place where its frame is longer than `limit`; and its bytes."""
    data = encode(result)
    if len(data) <= limit:
        return result, data
    smaller = ExecuteResult(
        request_id=result.request_id,
        status="failed",
        error=Code.RESULT_TOO_LARGE,
        error_message=f"the result takes {len(data)} bytes as a frame, and {limit} are allowed",
        lease_epoch=result.lease_epoch,
    )
    return smaller, encode(smaller)
