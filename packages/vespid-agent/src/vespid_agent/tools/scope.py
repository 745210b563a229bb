"""Whose turn it is, and what its tools may use of this host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vespid_protocol.frames import Level
from vespid_runtime.tools.tool import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolScope:
    """Of one request: a node of a run, or a turn of a session."""

    organization_id: str
    user_id: str
    request_id: str
    # Of a run; of a session's turn, the session's id.
    run_id: str
    # Of a run's node; "session" of a session.
    node_id: str
    # A folder that exists: the node's own, or the session's. Sandboxed work finds it as /work.
    workdir: Path
    # The organization lets models run shell commands (`tools.shellRunEnabled`).
    may_run_shell: bool = False
    # Clear values by secret id, and which of them a connector's calls use.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    connector_secrets: Mapping[str, str] = field(default_factory=dict)
    # That came with the request, for connectors: `githubApiBaseUrl`.
    base_urls: Mapping[str, str] = field(default_factory=dict)
    # Over the documents of the session, or of the workflow.
    memory: Sequence[Tool] = ()
    # (kind, level, message, payload): streamed while a tool runs, like a task's output.
    emit: Callable[[str, Level, str | None, object], None]
    # (key of the call, mark): journals what has to be reaped should this process die; "" when it is over.
    mark: Callable[[str, str], Awaitable[None]]


class ToolSource(Protocol):
    """A kind of tools that this host has. What there is may change while it runs."""

    def tools(self, scope: ToolScope) -> Sequence[Tool]:
        """Those of one request."""
        ...
