"""What a running agent tells of itself: the content of `status-<executorId>.json`, and of `status --json`.

It is for the agent's own user, and still holds nothing secret: ids, counts, times, and the reasons that `hello` and the
log give as well. No payload, no output, no token. Times are epoch ms.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

# The process writes at least this often while its loop turns.
BEAT_S = 5.0
# One that has not for so long hangs, or cannot write.
STALE_MS = 15_000
# More is nobody's status.
MAX_BYTES = 4 * 1024 * 1024

Phase: TypeAlias = Literal["starting", "running", "draining"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Spelled as everything else that is JSON here."""


class LinkState(_Part, frozen=True):
    url: str
    up: bool
    since: int
    # Why it is down.
    trouble: str | None = None
    # Whether the gateway speaks v2, as of its welcome.
    welcomed: bool = False
    heartbeat_ms: int | None = None
    # Of the last ping that was answered on this socket.
    round_trip_ms: int | None = None
    heard_ms_ago: int | None = None
    # Until the leases end unless the gateway answers; None where it gives none.
    lease_left_ms: int | None = None


class Lease(_Part, frozen=True):
    """A request or turn that is not over."""

    request_id: str
    # That of the request, or `session.turn`.
    kind: str
    since: int
    run_id: str | None = None
    node_id: str | None = None
    session_id: str | None = None


class JournalState(_Part, frozen=True):
    path: str
    # False: the disk refuses writes, and new work is declined.
    healthy: bool
    # Results and turn ends that the gateway has not acknowledged.
    unacknowledged: int


class OutboxState(_Part, frozen=True):
    frames: int
    bytes: int
    # Of events that may have to be sent again.
    events_bytes: int


class BackendState(_Part, frozen=True):
    name: str
    usable: bool
    # What tasks get that name none.
    is_default: bool
    reason: str | None = None
    notes: tuple[str, ...] = ()


class EngineLine(_Part, frozen=True):
    """An engine that is offered, or a program that could be."""

    id: str
    available: bool
    version: str | None = None
    logged_in: bool | None = None
    problem: str | None = None


class Problem(_Part, frozen=True):
    """A skill or an MCP server that does not work."""

    id: str
    problem: str


class ToolsState(_Part, frozen=True):
    skills: int = 0
    mcp: int = 0
    problems: tuple[Problem, ...] = ()


class DrainState(_Part, frozen=True):
    since: int
    deadline_ms: int | None = None


class State(_Part, frozen=True):
    executor_id: str
    pid: int
    version: str
    started: int
    # When this was written.
    at: int
    phase: Phase
    max_in_flight: int | None = None
    link: LinkState | None = None
    leases: tuple[Lease, ...] = ()
    journal: JournalState | None = None
    outbox: OutboxState | None = None
    backends: tuple[BackendState, ...] = ()
    engines: tuple[EngineLine, ...] = ()
    tools: ToolsState = ToolsState()
    drain: DrainState | None = None
