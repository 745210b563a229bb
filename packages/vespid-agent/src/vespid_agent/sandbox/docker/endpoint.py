"""Where the container engine listens: DOCKER_HOST as the docker command reads it, else the platform's own socket."""

import asyncio
import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import aiohttp

_UNIX = "/var/run/docker.sock"
_PIPE = r"\\.\pipe\docker_engine"
_PORT, _TLS_PORT = 2375, 2376
# A pull stream or an archive may be long; whoever calls sets the time of the rest.
_CONNECT_S = 10.0


class EndpointInvalid(Exception):
    """DOCKER_HOST cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine. `path` for a socket file or a named pipe, `host` and `port` for TCP."""

    kind: Literal["unix", "pipe", "tcp"]
    path: str = ""
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None

    @property
    def is_local(self) -> bool:
        """Whether a folder of this machine is a folder to the engine as well."""
        return self.kind != "tcp"

    @property
    def base_url(self) -> str:
        """What requests are addressed to; for a socket the host is only a name."""
        if self.kind != "tcp":
            return "http://docker"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls is not None else 'http'}://{host}:{self.port}"

    def __str__(self) -> str:
        if self.kind == "tcp":
            return f"tcp://{self.host}:{self.port}"
        return f"{'unix' if self.kind == 'unix' else 'npipe'}://{self.path}"

    def session(self) -> aiohttp.ClientSession:
        """A session whose connections all go there. Needs a running loop."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        return aiohttp.ClientSession(base_url=self.base_url, connector=self._connector(), timeout=timeout)

    def _connector(self) -> aiohttp.BaseConnector:
        if self.kind == "unix":
            return aiohttp.UnixConnector(self.path, limit=0)
        if self.kind == "pipe":
            return aiohttp.NamedPipeConnector(self.path, limit=0)
        return aiohttp.TCPConnector(limit=0, ssl=self.tls if self.tls is not None else False)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own, for what leaves HTTP behind. Raises OSError, TimeoutError."""
        async with asyncio.timeout(_CONNECT_S):
            if self.kind == "unix" and sys.platform != "win32":
                return await asyncio.open_unix_connection(self.path)
            if self.kind == "tcp":
                return await asyncio.open_connection(self.host, self.port, ssl=self.tls)
            return await _open_pipe(self.path)


def endpoint(environment: Mapping[str, str], home: Path) -> Endpoint:
    """The engine of DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH. Raises EndpointInvalid."""
    named = environment.get("DOCKER_HOST", "").strip()
    if not named:
        return _default(environment)
    url = urlsplit(named)
    if url.scheme == "unix":
        return Endpoint("unix", path=url.path or url.netloc)
    if url.scheme == "npipe":
        return Endpoint("pipe", path=named.removeprefix("npipe:").replace("/", "\\"))
    if url.scheme not in ("tcp", "http", "https"):
        raise EndpointInvalid(
            f"DOCKER_HOST is {named!r}: only unix://, npipe:// and tcp:// are supported;"
            " for ssh, forward the socket: ssh -L /tmp/docker.sock:/var/run/docker.sock <host>"
        )
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise EndpointInvalid(f"DOCKER_HOST is {named!r}: {error}") from None
    if not host:
        raise EndpointInvalid(f"DOCKER_HOST is {named!r}: it names no host")
    tls = None
    if url.scheme == "https" or environment.get("DOCKER_TLS_VERIFY"):
        tls = _tls(Path(environment.get("DOCKER_CERT_PATH") or home / ".docker"))
    return Endpoint("tcp", host=host, port=port or (_PORT if tls is None else _TLS_PORT), tls=tls)


def _default(environment: Mapping[str, str]) -> Endpoint:
    if sys.platform == "win32":
        return Endpoint("pipe", path=_PIPE)
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    rootless = Path(runtime) / "docker.sock" if runtime else None
    # Docker's own socket first; a rootless engine has one of its user's.
    if rootless is not None and not os.path.exists(_UNIX) and rootless.exists():
        return Endpoint("unix", path=str(rootless))
    return Endpoint("unix", path=_UNIX)


def _tls(folder: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        if (folder / "cert.pem").exists():
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except (OSError, ssl.SSLError) as error:
        raise EndpointInvalid(f"DOCKER_TLS_VERIFY is set, and {folder} has no usable ca.pem: {error}") from error
    return context


async def _open_pipe(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A named pipe, which only the loop of Windows can open."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await cast(Any, loop).create_pipe_connection(lambda: protocol, path)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
