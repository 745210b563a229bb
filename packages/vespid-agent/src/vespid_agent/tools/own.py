"""The tools that this host has of its own, beside connectors and memory: put together, kept fresh, and told of.

    own.start()  →  own.sources for requests, own.offers and own.problems for `hello`  →  own.stop()

The one thing to know: what there is may change at any moment, since people edit folders and servers die. `watch` sees
it within seconds, and says so once, however often it changed meanwhile.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence

import msgspec

from vespid_agent.logs import Logger
from vespid_agent.settings import AgentSettings
from vespid_agent.skills.library import Library
from vespid_agent.skills.run import SkillRunner
from vespid_agent.tools.mcp import PREFIX, McpTools
from vespid_agent.tools.sandboxed import Sandboxed
from vespid_agent.tools.scope import ToolSource
from vespid_agent.tools.shell import ShellTools
from vespid_agent.tools.skill import SkillTools
from vespid_agent.work.passthrough import Passthrough
from vespid_agent.work.shells import Shells
from vespid_protocol.frames import ToolOffer, ToolProblem
from vespid_protocol.offers import fit_problems, fit_tools

LOOK_S = 2.0
# How long a request waits for servers that are starting with the agent.
READY_S = 15.0
_PROBLEM_MAX_CHARS = 1_000
_ID_MAX_CHARS = 256


class OwnTools:
    """Of one agent."""

    def __init__(
        self,
        settings: AgentSettings,
        shells: Shells,
        passthrough: Passthrough,
        environment: Mapping[str, str],
        tls: ssl.SSLContext,
        lets: Callable[[Sequence[str]], Sequence[str]],
        log: Logger,
    ) -> None:
        """`lets`: which of some tools this agent lets models call at all; it tells of no others."""
        self.mcp = McpTools(settings.mcp_config, environment, tls, log)
        sandboxed = Sandboxed(shells, lambda: self.mcp.secrets)
        self.skills = SkillTools(Library(settings.skills_dir, log), SkillRunner(sandboxed, passthrough, log))
        self.shell = ShellTools(sandboxed)
        self._lets = lets

    @property
    def sources(self) -> Sequence[ToolSource]:
        return (self.shell, self.skills, self.mcp)

    async def start(self) -> None:
        """Returns when skills are read; servers come up later."""
        await self.skills.start()
        await self.mcp.start()

    async def ready(self, allow: Sequence[str]) -> None:
        """Where a request allows tools of servers: returns when these have come up, or have had time to.

        Else a node that a restart has interrupted would go on without the tools that it had.
        """
        if any(entry.startswith(PREFIX) for entry in allow):
            await self.mcp.settled(READY_S)

    async def stop(self) -> None:
        """Harmless to repeat."""
        await self.mcp.stop()
        await self.skills.stop()

    @property
    def offers(self) -> tuple[ToolOffer, ...]:
        """For `hello`: skills and tools of servers, which only this host knows. Within its bounds."""
        found = {
            id: (description, schema)
            for source in (self.skills, self.mcp)
            for id, description, schema in source.offered
        }
        return fit_tools(
            tuple(
                ToolOffer(id=id, description=found[id][0], input_schema=msgspec.Raw(msgspec.json.encode(found[id][1])))
                for id in self._lets(tuple(found))
            )
        )

    @property
    def problems(self) -> tuple[ToolProblem, ...]:
        """For `hello`: what does not work, and why."""
        found = {**self.skills.problems, **self.mcp.problems}
        return fit_problems(
            tuple(
                ToolProblem(id=id[:_ID_MAX_CHARS], problem=problem[:_PROBLEM_MAX_CHARS])
                for id, problem in sorted(found.items())
            )
        )

    async def watch(self, changed: Callable[[], None]) -> None:
        """The task that looks again and again; `changed` is told when there is something else to tell of."""
        told = (self.offers, self.problems)
        while True:
            await asyncio.sleep(LOOK_S)
            await self.skills.changed()
            now = (self.offers, self.problems)
            if now != told:
                told = now
                changed()
