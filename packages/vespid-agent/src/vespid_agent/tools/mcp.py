"""`mcp.<server>.<tool>`: what the MCP servers of this agent have, as tools.

The one thing to know: without VESPID_AGENT_MCP_CONFIG there is nothing here, and the SDK is not even imported. With it
servers are started beside the agent, which waits for none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vespid_agent.logs import Logger
from vespid_agent.mcp.config import read_config
from vespid_agent.mcp.listing import McpTool
from vespid_agent.tools.scope import ToolScope
from vespid_runtime.tools.tool import Tool, ToolUse

if TYPE_CHECKING:
    from vespid_agent.mcp.server import Server

PREFIX = "mcp."


class McpTools:
    """The source, and the owner of the servers."""

    def __init__(self, config: Path | None, environment: Mapping[str, str], tls: ssl.SSLContext, log: Logger) -> None:
        """`config` None: there are none."""
        self._path = config
        self._environment = environment
        self._tls = tls
        self._log = log
        self._starting: asyncio.Task[None] | None = None
        self._servers: list[Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        # Of the file and its entries.
        self._problems: dict[str, str] = {}

    async def start(self) -> None:
        """Returns at once: servers come up when they do."""
        if self._path is not None:
            self._starting = asyncio.create_task(self._begin(self._path), name="mcp")

    async def _begin(self, path: Path) -> None:
        config = await asyncio.to_thread(read_config, path, self._environment)
        for name, problem in config.problems.items():
            self._tell(name, problem)
        if not config.servers:
            return
        try:
            # Off the loop: the SDK is large.
            await asyncio.to_thread(importlib.import_module, "vespid_agent.mcp.server")
        except ImportError as missing:
            self._tell("", f"it needs the extra vespid-agent[mcp]: {missing}")
            return
        from vespid_agent.mcp.connect import connector
        from vespid_agent.mcp.server import Server

        connect = connector(self._environment, self._tls)
        for one in config.servers:
            server = Server(one, connect, self._log)
            self._servers.append(server)
            self._tasks.append(asyncio.create_task(server.run(), name=f"mcp {one.name}"))

    def _tell(self, name: str, problem: str) -> None:
        self._log.error("mcp_config", server=name, problem=problem)
        self._problems[f"{PREFIX}{name}" if name else "mcp"] = problem

    async def stop(self) -> None:
        """Every server and all that it started is gone when this returns."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
            self._starting = None
        for server in self._servers:
            server.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._servers.clear()

    async def settled(self, within_s: float) -> None:
        """Returns when each has answered once or failed to, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                if self._starting is not None:
                    await asyncio.wait([self._starting])
                for server in self._servers:
                    await server.tried.wait()

    @property
    def secrets(self) -> Sequence[str]:
        """What any of them was given, which nothing may show."""
        return [secret for server in self._servers for secret in server.config.secrets]

    @property
    def problems(self) -> Mapping[str, str]:
        """By id: what is wrong with the file, with servers, and with some of their tools."""
        found = dict(self._problems)
        for server in self._servers:
            told = [server.problem] if server.problem else []
            told += server.listing.problems
            if told:
                found[PREFIX + server.config.name] = "; ".join(told)
        return found

    @property
    def offered(self) -> Sequence[tuple[str, str, dict[str, object]]]:
        """Id, description and schema of each."""
        return [(_id(server, tool), tool.description, tool.input_schema) for server, tool in self._all()]

    def tools(self, scope: ToolScope) -> Sequence[Tool]:
        return [_McpTool(server, tool) for server, tool in self._all()]

    def _all(self) -> Iterator[tuple[Server, McpTool]]:
        for server in self._servers:
            for tool in server.listing.tools:
                yield server, tool


def _id(server: Server, tool: McpTool) -> str:
    return f"{PREFIX}{server.config.name}.{tool.name}"


class _McpTool:
    def __init__(self, server: Server, tool: McpTool) -> None:
        self.id = _id(server, tool)
        self.description = tool.description
        self.input_schema = tool.input_schema
        self.secrets = server.config.secrets
        self._server = server
        self._name = tool.name

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        return await self._server.call(self._name, arguments, use.key, use.timeout_ms)
