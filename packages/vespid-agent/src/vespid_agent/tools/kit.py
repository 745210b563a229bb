"""What a request may have called on this host: tools of every kind that the host has, under the host's own ceilings.

The one thing to know: the ceilings hold here, whatever a request allows. A tool beyond them is in the box all the same,
and says why it is not carried out, so that the model can be told and not only be left to wonder.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from vespid_agent.sessions.tools import ToolPolicy
from vespid_agent.tools.scope import ToolScope, ToolSource
from vespid_protocol.codes import Code
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse
from vespid_runtime.tools.toolbox import Toolbox


class Kit:
    """Of one agent."""

    def __init__(
        self,
        policy: ToolPolicy,
        sources: Sequence[ToolSource],
        ready: Callable[[Sequence[str]], Awaitable[None]] | None = None,
    ) -> None:
        """Of two tools with one id the source that comes first has it. `ready`: waits for what such tools need."""
        self._policy = policy
        self._sources = tuple(sources)
        self._ready = ready

    async def ready(self, allow: Sequence[str]) -> None:
        """Returns when what is still starting has had its chance, as far as these tools need it."""
        if self._ready is not None:
            await self._ready(allow)

    def narrow(self, asked: Sequence[str]) -> tuple[str, ...]:
        """What is left of what a request allows."""
        return self._policy.narrow(asked)

    def toolbox(self, scope: ToolScope) -> Toolbox:
        """All that this host has, for one request."""
        return Toolbox(self._governed(scope))

    def _governed(self, scope: ToolScope) -> Iterable[Tool]:
        for source in self._sources:
            for tool in source.tools(scope):
                if not self._policy.lets(tool.id):
                    yield _Denied(tool.id, tool.description, tool.input_schema)
                else:
                    yield tool


@dataclass(frozen=True, slots=True)
class _Denied:
    """A tool beyond the ceiling."""

    id: str
    description: str
    input_schema: dict[str, object]

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        raise ToolError(
            f"{Code.TOOL_NOT_ALLOWED}:{self.id}", "this agent is for others too, and does not let it be called"
        )
