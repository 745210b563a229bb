"""A server's socket file at another place: at a port of ours, or under another name, for as long as it is wanted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path


@contextlib.asynccontextmanager
async def forwarded(socket: Path | str, place: Path | None = None) -> AsyncIterator[int]:
    """Answers the port on 127.0.0.1; with `place` it is a socket file there, and 0. At the end all lines are cut."""
    writers: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writers.discard(writer)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = (
        await asyncio.start_server(accept, "127.0.0.1", 0)
        if place is None
        else await asyncio.start_unix_server(accept, place)
    )
    try:
        yield server.sockets[0].getsockname()[1] if place is None else 0
    finally:
        server.close()
        for writer in tuple(writers):
            writer.transport.abort()
        if place is not None:
            place.unlink(missing_ok=True)
