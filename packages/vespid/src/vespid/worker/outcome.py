"""What came of an execution that this process ran, made fit to be kept: masked, storable, not too large."""

from __future__ import annotations

import msgspec

from vespid.store.executions import EventItem
from vespid_protocol.codes import Code
from vespid_protocol.text import clean_json
from vespid_runtime.redaction import Redactor

OUTPUT_MAX_BYTES = 4 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


class Outcome(msgspec.Struct, frozen=True):
    """`error` None: it succeeded."""

    output: object = None
    error: str | None = None
    message: str | None = None
    details: object = None
    # What was told of it and is not persisted yet: masked and cut already.
    tail: tuple[EventItem, ...] = ()

    def fit(self, secrets: list[str]) -> Outcome:
        """As it may be stored."""
        return _within_limit(_storable(_masked(self, secrets)))


def _masked(outcome: Outcome, secrets: list[str]) -> Outcome:
    if not secrets:
        return outcome
    redactor = Redactor(secrets)
    return msgspec.structs.replace(
        outcome,
        output=redactor.redact_json(msgspec.to_builtins(outcome.output)),
        error=None if outcome.error is None else redactor.redact(outcome.error),
        message=None if outcome.message is None else redactor.redact(outcome.message),
        details=redactor.redact_json(msgspec.to_builtins(outcome.details)),
    )


def _storable(outcome: Outcome) -> Outcome:
    """NUL and lone surrogates of whoever was asked become U+FFFD: Postgres keeps neither."""
    raw, mended = clean_json(_encode(msgspec.to_builtins(msgspec.structs.replace(outcome, tail=()))))
    return msgspec.structs.replace(msgspec.json.decode(raw, type=Outcome), tail=outcome.tail) if mended else outcome


def _within_limit(outcome: Outcome) -> Outcome:
    size = len(_encode(outcome.output))
    if size <= OUTPUT_MAX_BYTES:
        return outcome
    return Outcome(
        error=Code.RESULT_TOO_LARGE,
        message=f"the output has {size} bytes, at most {OUTPUT_MAX_BYTES} are kept",
        tail=outcome.tail,
    )
