"""A server at another place: at a port of ours, or under another name, as long as it is wanted. Lines can be cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path


class Line:
    """Forwards connections; `port` on 127.0.0.1 is where (0: a socket file is)."""

    def __init__(self, to: Path | str | int) -> None:
        self.port = 0
        # Told every piece that comes back from the server, before it is passed on.
        self.watch: Callable[[bytes], None] = lambda data: None
        # How many connections were opened so far.
        self.opened = 0
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections that there are; others may be opened."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        inner_reader, inner_writer = await self._open()
        await asyncio.gather(self._copy(reader, inner_writer), self._copy(inner_reader, writer, is_back=True))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._to, int):
            return await asyncio.open_connection("127.0.0.1", self._to)
        return await asyncio.open_unix_connection(self._to)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_back: bool = False) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if is_back:
                    self.watch(data)
                writer.write(data)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


@contextlib.asynccontextmanager
async def line_to(to: Path | str | int, place: Path | None = None) -> AsyncIterator[Line]:
    """A line to a port of 127.0.0.1 or a socket file; with `place` it begins at a socket file there. In the end cut."""
    line = Line(to)
    server = (
        await asyncio.start_server(line.accept, "127.0.0.1", 0)
        if place is None
        else await asyncio.start_unix_server(line.accept, place)
    )
    if place is None:
        line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        line.cut()
        if place is not None:
            place.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def forwarded(socket: Path | str, place: Path | None = None) -> AsyncIterator[int]:
    """A line to a server's socket file; answers the port."""
    async with line_to(socket, place) as line:
        yield line.port
