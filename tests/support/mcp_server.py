"""An MCP server made with the official SDK: a program to be started (`stdio`), or to be reached (`http <port>`)."""

from __future__ import annotations

import os
import subprocess
import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("test-server")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def environment() -> str:
    """Its own variables."""
    return "\n".join(f"{name}={value}" for name, value in sorted(os.environ.items()))


@server.tool()
def big(size: int) -> str:
    """So many characters."""
    return "x" * size


@server.tool()
def fail() -> str:
    """Never works."""
    raise ValueError("no ticket of that number")


@server.tool()
async def hang() -> str:
    """Never answers."""
    await anyio.sleep_forever()
    return ""


@server.tool()
def die() -> str:
    """Ends the server in the middle of a call."""
    print("a last word", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def pid() -> int:
    """Of the server."""
    return os.getpid()


@server.tool()
def start(*, seconds: str) -> int:
    """Starts a program that outlives its parent, if it may."""
    return subprocess.Popen(["sleep", seconds], start_new_session=True).pid


@server.tool()
async def grow(name: str, context: Context) -> str:
    """Has one tool more from now on."""

    def more() -> str:
        return "more"

    server.add_tool(more, name=name, description="A new one.")
    await context.session.send_tool_list_changed()
    return "grown"


if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
