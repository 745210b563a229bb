"""The way to a server: a process of this machine, or HTTP. What each system has for the first is chosen here."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from vespid_agent.mcp.config import ServerConfig
from vespid_agent.mcp.ends import ServerEnded

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

# Of the agent's own variables; the rest is what the server's `env` says.
PASSED = ("PATH", "HOME", "LANG")

Connect = Callable[[ServerConfig], "AbstractAsyncContextManager[TransportStreams]"]


def connector(environment: Mapping[str, str], tls: ssl.SSLContext) -> Connect:
    """What opens the way to any server. Its streams raise ServerEnded, OSError."""
    # The SDK logs what servers send, which is not ours to write down.
    for name in ("mcp", "httpx2", "httpcore2"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False

    def connect(server: ServerConfig) -> AbstractAsyncContextManager[TransportStreams]:
        if server.url:
            from vespid_agent.mcp.http import http_streams

            return http_streams(server, tls)
        return _process_streams(server, environment)

    return connect


@contextlib.asynccontextmanager
async def _process_streams(
    server: ServerConfig, environment: Mapping[str, str]
) -> AsyncGenerator[TransportStreams, None]:
    passed = {name: environment[name] for name in PASSED if name in environment}
    env = {"PATH": os.defpath, **passed, **server.env}
    program = _program(server, env["PATH"])
    if sys.platform == "linux":
        from vespid_agent.mcp.kept import kept_streams

        async with kept_streams([program, *server.args], env, str(server.cwd)) as streams:
            yield streams
    else:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        parameters = StdioServerParameters(command=program, args=list(server.args), env=env, cwd=server.cwd)
        # The SDK's: a process group, or a job of Windows that ends with us.
        with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230  (opened once, and read by nobody)
            async with stdio_client(parameters, nowhere) as streams:
                yield streams


def _program(server: ServerConfig, path: str) -> str:
    """Raises ServerEnded."""
    if not server.cwd.is_dir():
        raise ServerEnded("its cwd is not a folder")
    command = server.command
    if os.path.dirname(command):  # by its place, and that from its own folder
        command = os.path.join(server.cwd, os.path.expanduser(command))
    program = shutil.which(command, path=path)
    if program is None:
        raise ServerEnded(f"there is no program {server.command!r}")
    return program
