"""From an outcome to the `execute_result` that may leave: redacted, storable, and no larger than a frame may be.

A failure may bring along what the next attempt goes on from (`output.loop`). Where that is too large it stays behind,
for the failure itself must be told: the next attempt then begins anew, with the events that were told.
"""

from __future__ import annotations

import json

import msgspec

from vespid_agent.work.job import Outcome
from vespid_protocol import codec
from vespid_protocol.codes import Code
from vespid_protocol.frames import ExecuteResult
from vespid_protocol.text import clean_json
from vespid_runtime.redaction import Redactor

# The request may be ours under a higher epoch, with more digits, by the time the frame is sent.
_EPOCH_ROOM_BYTES = 32
_ERROR_MAX_CHARS = 1024
_MESSAGE_MAX_CHARS = 4000

NO_SECRETS = Redactor(())
# The part of a failure's output that the next attempt goes on from.
LOOP = "loop"


def result_of(
    request_id: str, lease_epoch: int | None, outcome: Outcome, redactor: Redactor, max_frame_bytes: int
) -> tuple[ExecuteResult, bytes]:
    """The frame, and its bytes. Larger than a frame it leaves its loop behind, or is `failed RESULT_TOO_LARGE`."""
    try:
        output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        if outcome.output is not msgspec.UNSET:
            output = msgspec.Raw(redactor.redact_raw(_encoded(outcome.output)))
    except (TypeError, ValueError, RecursionError) as error:
        message = f"what the work answered is not JSON ({type(error).__name__})"
        outcome, output = Outcome.failure(Code.NODE_EXECUTION_FAILED, message), msgspec.UNSET
    result = ExecuteResult(
        request_id=request_id,
        status=outcome.status,
        output=output,
        error=_said(outcome.error, redactor, _ERROR_MAX_CHARS),
        error_message=_said(outcome.error_message, redactor, _MESSAGE_MAX_CHARS),
        lease_epoch=lease_epoch,
    )
    limit = max_frame_bytes - _EPOCH_ROOM_BYTES
    if len(frame := codec.encode(result)) <= limit:
        return result, frame
    return codec.fit_result(without_loop(result) or result, limit)


def without_loop(result: ExecuteResult) -> ExecuteResult | None:
    """The same failure without what the next attempt could go on from; None where it brings nothing of the kind."""
    if result.status != "failed" or not isinstance(result.output, msgspec.Raw):
        return None
    output = msgspec.json.decode(result.output)
    if not isinstance(output, dict) or LOOP not in output:
        return None
    rest = {key: value for key, value in output.items() if key != LOOP}
    return msgspec.structs.replace(result, output=msgspec.Raw(msgspec.json.encode(rest)))


def failure_of(request_id: str, lease_epoch: int | None, code: str, message: str) -> ExecuteResult:
    """A request that failed without output."""
    return ExecuteResult(
        request_id=request_id, status="failed", error=code, error_message=message, lease_epoch=lease_epoch
    )


def _encoded(output: object) -> bytes:
    try:
        return msgspec.json.encode(output)
    except UnicodeEncodeError:  # lone surrogates: spelled as escapes they can be replaced
        return clean_json(json.dumps(output).encode())[0]


def _said(text: str | None, redactor: Redactor, max_chars: int) -> str | None:
    if text is None:
        return None
    return redactor.redact(text).encode("utf-8", "replace").decode()[:max_chars]
