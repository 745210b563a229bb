"""The engine's HTTP API, as much of it as running tasks takes (Docker Engine API 1.40, of Docker 19.03, and later)."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import aiohttp

from vespid_agent.sandbox.docker.endpoint import Endpoint

API = "/v1.40"
# What an engine answers at once; starting a container on a busy machine takes a while.
_CALL_S = 60.0
_HEAD_MAX = 64 * 1024
_CHUNK = 256 * 1024
# A frame of an attached stream: which stream, three bytes of nothing, its length.
_FRAME = struct.Struct(">BxxxL")
_STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}


class EngineError(Exception):
    """The engine refused; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class EngineUnreachable(Exception):
    """There is no talking to it; the message says why and what to do."""


class Engine:
    """One engine. `close` ends its connections; it opens them again when it is used again."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(self, path: str, **query: str) -> Any:
        return await self._call("GET", path, query)

    async def post(self, path: str, body: object = None, timeout_s: float | None = _CALL_S, **query: str) -> Any:
        return await self._call("POST", path, query, body, timeout_s)

    async def delete(self, path: str, **query: str) -> Any:
        return await self._call("DELETE", path, query)

    async def put_archive(self, container: str, path: str, tar: AsyncIterator[bytes]) -> None:
        """Unpack a tar in a container's folder, with the owners that it names."""
        try:
            async with self._open().put(
                f"{API}/containers/{container}/archive",
                params={"path": path},
                data=tar,
                headers={"Content-Type": "application/x-tar"},
            ) as answer:
                await _checked(answer)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def get_archive(self, container: str, path: str) -> AsyncIterator[bytes]:
        """A container's folder as a tar, below its own name."""
        try:
            async with self._open().get(f"{API}/containers/{container}/archive", params={"path": path}) as answer:
                await _checked(answer)
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def attach(self, container: str) -> "Attached":
        """The container's standard streams, from its very start on where it is not started yet."""
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        try:
            reader, writer = await self.endpoint.open()
        except (OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        try:
            writer.write(
                f"POST {API}/containers/{container}/attach?{query} HTTP/1.1\r\n"
                "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
            )
            async with asyncio.timeout(_CALL_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            writer.transport.abort()
            raise self._unreachable(error) from error
        status = int(head.split(b" ", 2)[1])
        if status not in (101, 200):
            writer.transport.abort()
            raise EngineError(status, f"attaching was refused with {status}")
        return Attached(reader, writer)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object = None,
        timeout_s: float | None = _CALL_S,
    ) -> Any:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._open().request(method, API + path, params=query, json=body) as answer,
            ):
                await _checked(answer)
                text = await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        return json.loads(text) if text and "json" in answer.content_type else text

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self.endpoint.session()
        return self._session

    def _unreachable(self, error: BaseException) -> EngineUnreachable:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PermissionError):
            cause = cause.__cause__ or getattr(cause, "os_error", None)
        if isinstance(cause, PermissionError):
            advice = "add the agent's user to the group docker, or use a rootless engine"
            return EngineUnreachable(f"no permission to use {self.endpoint}: {advice}")
        if isinstance(error, TimeoutError):
            return EngineUnreachable(f"the engine at {self.endpoint} does not answer")
        advice = "start Docker, or set DOCKER_HOST to where it listens"
        return EngineUnreachable(f"no engine answers at {self.endpoint} ({type(error).__name__}): {advice}")


class Attached:
    """The streams of one container: in is written once, out comes in frames until the last process has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def is_open(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def give(self, data: bytes) -> None:
        """Write to its standard input. It stays open: not every transport can close one direction. Raises OSError."""
        self._writer.write(data)
        await self._writer.drain()

    async def frames(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        """What it prints, as it comes. Raises OSError."""
        while True:
            try:
                number, left = _FRAME.unpack(await self._reader.readexactly(_FRAME.size))
            except asyncio.IncompleteReadError:
                return
            while left:
                data = await self._reader.read(min(left, _CHUNK))
                if not data:
                    return
                left -= len(data)
                if number in _STREAMS:
                    yield _STREAMS[number], data

    def close(self) -> None:
        self._writer.transport.abort()


async def _checked(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        text = await answer.text()
        try:
            message = str(json.loads(text)["message"])
        except (ValueError, KeyError, TypeError):
            message = text.strip() or f"status {answer.status}"
        raise EngineError(answer.status, message)
