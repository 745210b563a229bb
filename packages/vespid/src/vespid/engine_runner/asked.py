"""What `POST /internal/v1/llm/infer` takes and answers."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import Meta

from vespid_protocol.codes import Code
from vespid_runtime.models.types import ModelError, ModelReply, ModelRequest, StopReason, ToolCall, Usage

# A value in one of msgspec's messages; names and types stand in backticks.
_QUOTED = re.compile(r"'.*'", re.DOTALL)

_STATUS = {
    Code.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    Code.ENGINE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.LLM_AUTH_NOT_CONFIGURED: HTTPStatus.SERVICE_UNAVAILABLE,
}


class InferRequest(ModelRequest, frozen=True, kw_only=True):
    """A request to a model, for whom it is, and how it is answered."""

    # Whose share of the concurrency it takes; those without one share one.
    organization_id: Annotated[str, Meta(max_length=200)] = ""
    stream: bool = False
    # Absent: as long as this engine-runner lets a call take.
    timeout_ms: Annotated[int, Meta(ge=1, le=600_000)] = 600_000


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The model's answer; also the data of a stream's `done`."""

    ok: bool = True
    content: str
    tool_calls: tuple[ToolCall, ...]
    stop_reason: StopReason
    usage: Usage

    @classmethod
    def of(cls, reply: ModelReply) -> Answer:
        return cls(content=reply.content, tool_calls=reply.tool_calls, stop_reason=reply.stop_reason, usage=reply.usage)


class Refusal(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Every answer that is none; also the data of a stream's `error`."""

    ok: bool = False
    error: str
    message: str
    # Whether the same request can succeed later, and when at the earliest.
    retryable: bool = False
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, error: ModelError) -> Refusal:
        return cls(
            error=error.code,
            message=error.message,
            retryable=error.retryable,
            retry_after_ms=error.retry_after_ms,
        )


def status_of(error: ModelError) -> HTTPStatus:
    """What did not come as far as a provider has a status of its own; what a provider said is 200 with `ok: false`."""
    return _STATUS.get(Code(error.code), HTTPStatus.OK) if error.code in Code.__members__ else HTTPStatus.OK


_decoder = msgspec.json.Decoder(InferRequest)


def decode_request(body: bytes) -> InferRequest:
    """Raises ModelError BAD_REQUEST, which names the field and never a value."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as odd:
        shape = _QUOTED.sub("'…'", str(odd)) if isinstance(odd, msgspec.MsgspecError) else "the body is not UTF-8"
        raise ModelError(Code.BAD_REQUEST, shape) from None
