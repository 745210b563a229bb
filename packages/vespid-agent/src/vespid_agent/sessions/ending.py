"""How a turn ended, as the frame that may leave: redacted, and no larger than a frame may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from vespid_protocol import codec
from vespid_protocol.codes import Code
from vespid_protocol.frames import MemoryDocument, SessionTurn, TurnError, TurnFinal
from vespid_protocol.text import clean_json, clean_text
from vespid_runtime.engines.engine import TurnAnswer
from vespid_runtime.memory.workspace import content_sha256
from vespid_runtime.redaction import Redactor

TurnEnd: TypeAlias = TurnFinal | TurnError

_MESSAGE_MAX_CHARS = 4_000


def final_of(
    order: SessionTurn, answer: TurnAnswer, memory: Sequence[MemoryDocument], redactor: Redactor, max_chars: int
) -> TurnEnd:
    """The answer; `memory` is what the turn changed. What is no JSON ends the turn as failed."""
    payload = dict(answer.payload or {})
    if memory:
        payload["memory"] = [masked(document, redactor) for document in memory]
    try:
        raw = msgspec.Raw(redactor.redact_raw(_encoded(payload))) if payload else msgspec.UNSET
    except (TypeError, ValueError, RecursionError) as error:
        message = f"what the engine answered is not JSON ({type(error).__name__})"
        return error_of(order, Code.NODE_EXECUTION_FAILED, message, redactor)
    content = redactor.redact(clean_text(answer.content)[0])[:max_chars]
    return TurnFinal(request_id=order.request_id, session_id=order.session_id, content=content, payload=raw)


def error_of(order: SessionTurn, code: str, message: str, redactor: Redactor) -> TurnError:
    said = redactor.redact(clean_text(message)[0])[:_MESSAGE_MAX_CHARS]
    return TurnError(request_id=order.request_id, session_id=order.session_id, code=code[:1024], message=said)


def fit_end(end: TurnEnd, limit: int) -> tuple[TurnEnd, bytes]:
    """The end, or `RESULT_TOO_LARGE` in its place where its frame is longer than `limit`; and its bytes."""
    frame = codec.encode(end)
    if len(frame) <= limit:
        return end, frame
    smaller = too_large(end.request_id, end.session_id, len(frame))
    return smaller, codec.encode(smaller)


def too_large(request_id: str, session_id: str, length: int) -> TurnError:
    message = f"the answer takes {length} bytes as a frame, more than the gateway takes"
    return TurnError(request_id=request_id, session_id=session_id, code=Code.RESULT_TOO_LARGE, message=message)


def lost(request_id: str, session_id: str, message: str) -> TurnError:
    """It will never have an answer from here."""
    return TurnError(request_id=request_id, session_id=session_id, code=Code.AGENT_DISCONNECTED, message=message)


def masked(document: MemoryDocument, redactor: Redactor) -> MemoryDocument:
    """The document as it may leave, under the hash of what it then holds."""
    if document.content is None:
        return document
    content = redactor.redact(document.content)
    if content == document.content:
        return document
    return msgspec.structs.replace(document, content=content, sha256=content_sha256(content))


def _encoded(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # lone surrogates: spelled as escapes they can be replaced
        return clean_json(json.dumps(msgspec.to_builtins(value)).encode())[0]
