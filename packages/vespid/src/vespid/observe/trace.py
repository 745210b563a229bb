"""`traceparent` of W3C Trace Context: read leniently, written exactly."""

import re
import secrets

import msgspec

_TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


class TraceContext(msgspec.Struct, frozen=True):
    """Which trace something belongs to, and the span that caused it."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"

    def child(self) -> "TraceContext":
        """A new span of the same trace."""
        return TraceContext(self.trace_id, secrets.token_hex(8), self.is_sampled)


def parse_traceparent(header: str | None) -> TraceContext | None:
    """The context of a header; None for one that is missing or not valid, which is to be ignored."""
    match = _TRACEPARENT.match((header or "").strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


def new_trace() -> TraceContext:
    """A trace of its own."""
    return TraceContext(secrets.token_hex(16), secrets.token_hex(8), is_sampled=True)
