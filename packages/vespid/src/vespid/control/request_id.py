"""One id per request: on the answer, in the log, in the audit log; and the trace it belongs to."""

import re
from typing import Any

from vespid_protocol.ids import new_id

_KEY = "vespid_request_id"
_ACCEPTABLE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# version "00", trace id, parent id, flags: W3C Trace Context, level 1. All zeros are not ids.
_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def request_id_of(scope: Any) -> str:
    """The request's id: the caller's own `x-request-id` where it is a harmless one, else a fresh one."""
    state = scope.setdefault("state", {})
    known = state.get(_KEY)
    if known is None:
        given = _header(scope, b"x-request-id")
        known = given.decode() if given is not None and _ACCEPTABLE.fullmatch(given) else new_id()
        state[_KEY] = known
    return str(known)


def traceparent_of(scope: Any) -> str | None:
    """The caller's `traceparent`, where it is one; what a trace of ours continues."""
    given = _header(scope, b"traceparent")
    return given.decode() if given is not None and _TRACEPARENT.fullmatch(given) else None


def trace_id_of(scope: Any) -> str | None:
    """The trace's id, for the log."""
    traceparent = traceparent_of(scope)
    return traceparent.split("-")[1] if traceparent else None


def _header(scope: Any, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None
