"""An ASGI application listening in our own event loop: uvicorn as a service that is started and stopped."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn

log = structlog.get_logger("vespid.control.http")

_BACKLOG = 2048
# Longer than the minute for which balancers and clients keep an idle connection: whoever closes first makes the other
# lose the request that is just then on its way.
KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """uvicorn's server, without its hands on the process's signals, and telling when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for the whole process to handle, not for one of its services."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()


class HttpService:
    """Listens from `start` on. `stop` takes no new connection, lets requests end within the grace, and closes."""

    def __init__(
        self, app: Any, host: str, port: int, *, grace_s: float, trusted_proxies: tuple[str, ...] = ()
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._grace_s = grace_s
        self._trusted_proxies = trusted_proxies
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where it listens; with port 0 known once started."""
        return self._port

    async def start(self) -> None:
        """Return when connections are taken. Raises OSError where the address cannot be had."""
        if self._serving is not None:
            return
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._server = _Server(self._config())
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        listening = asyncio.ensure_future(self._server.listening.wait())
        try:
            await asyncio.wait((self._serving, listening), return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
        if self._serving.done():
            self._serving.result()
            raise RuntimeError("the HTTP server ended before it listened")

    async def stop(self) -> None:
        """Return when the last connection is closed."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        try:
            await asyncio.shield(self._serving)
        finally:
            if self._serving.done():
                self._server = self._serving = None

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(self._trusted_proxies),
            forwarded_allow_ips=list(self._trusted_proxies),
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(self._grace_s)),
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: connections inherit it, and asyncio turns Nagle's delay off only where it reads TCP. Else
    # an answer whose body is written behind its head waits for the client's delayed acknowledgement, 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
