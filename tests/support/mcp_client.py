"""The official MCP client over real HTTP, as a coding assistant is one."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


class Assistant:
    """A connected client, and what it calls."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The answer of a tool; it is not a refusal."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.structured_content
        return dict(result.structured_content)

    async def refused(self, tool: str, **arguments: Any) -> tuple[int, str]:
        """Status and code of a refusal."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        return result.structured_content["status"], result.structured_content["code"]


@contextlib.asynccontextmanager
async def assistant(url: str, key: str, **how: Any) -> AsyncIterator[Assistant]:
    """Speaks to the control plane at that address."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, **how) as client:
            yield Assistant(client)
