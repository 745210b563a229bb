"""One request being worked on: what it brings, what it may use, and what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from vespid_protocol.frames import Execute, Level
from vespid_runtime.redaction import Redactor

# What the agent grants a request whose `execute` says no time (base gateways).
DEFAULT_TIMEOUT_MS = 60_000


class WorkFailed(Exception):
    """The request failed with a code of the contract; `output` is what there is of a result."""

    def __init__(self, code: str, message: str, output: object = msgspec.UNSET) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.output = output


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended: what `execute_result` will say, not yet redacted."""

    status: Literal["succeeded", "failed"]
    # A JSON value, or UNSET for none.
    output: object = msgspec.UNSET
    error: str | None = None
    error_message: str | None = None

    @classmethod
    def of(cls, output: object) -> Outcome:
        return cls(status="succeeded", output=output)

    @classmethod
    def failure(cls, code: str, message: str, output: object = msgspec.UNSET) -> Outcome:
        return cls(status="failed", output=output, error=code, error_message=message)


@dataclass(slots=True)
class Job:
    """Handed to the work of a kind. Times are milliseconds of the agent's monotonic clock."""

    order: Execute
    # When the request's time is over.
    deadline_ms: int
    # Knows every secret that came with the request, and what `mask` added.
    redactor: Redactor
    # (kind, level, message, payload): streamed to the gateway while the work runs; dropped first when the link is slow.
    emit: Callable[[str, Level, str | None, object], None]
    # (call, mark): journals what has to be reaped if this process dies, of several calls at a time. Returns when that
    # is on disk. "" as the mark: the call is over.
    mark: Callable[[str, str], Awaitable[None]]
    # Journals the output (JSON, redacted) of the failure that this is if this process dies, or has to stop; None: none.
    # Returns when that is on disk.
    keep: Callable[[bytes | None], Awaitable[None]]
    monotonic_ms: Callable[[], int]

    def mask(self, values: Iterable[str]) -> None:
        """These too are to be seen in nothing that leaves. Before the work that may show them begins."""
        self.redactor = self.redactor.also(values)

    @property
    def secrets(self) -> Mapping[str, str]:
        """Clear values by secret id, for templates."""
        return self.order.secrets or {}

    @property
    def remaining_ms(self) -> int:
        """What is left of the request's time; never negative."""
        return max(self.deadline_ms - self.monotonic_ms(), 0)


def identity(order: Execute) -> dict[str, str]:
    """The variables that let a task recognise a second attempt of the same node."""
    return {"VESPID_IDEMPOTENCY_KEY": idempotency_key(order.request_id), "VESPID_REQUEST_ID": order.request_id}


def idempotency_key(request_id: str) -> str:
    """`<runId>:<nodeId>`, the same in every attempt; an id of another form stands for itself."""
    run, _, rest = request_id.partition(":")
    node, _, _ = rest.rpartition(":")
    return f"{run}:{node}" if node else request_id
