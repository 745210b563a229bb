"""A server as a process of this machine, on Linux: below a keeper, so that neither it nor what it starts outlives us.

The keeper ends the whole tree when the agent says so, and when the agent is gone, even by `kill -9`. Messages are
lines of JSON over standard input and output; what it says on standard error is kept, a little of it, for when it fails.
"""

import asyncio
import contextlib
import os
import resource
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Mapping

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import jsonrpc_message_adapter

from vespid_agent.mcp.ends import MESSAGE_MAX_BYTES, ServerEnded
from vespid_agent.sandbox import nursery, process_tree
from vespid_agent.sandbox.ending import to_the_end
from vespid_agent.sandbox.launch import Launch, encoded

assert sys.platform == "linux"

_STDERR_KEPT_BYTES = 2_000
# After its input was closed, before it is told to end.
_GOODBYE_S = 1.0
_KILL_GRACE_MS = 1_000
_READ_BYTES = 64 * 1024


class Kept:
    """One process and what it starts."""

    def __init__(self, pipes: nursery.Pipes, stdin: int, token: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipes = pipes
        self._stdin_end = stdin
        self._token = token
        self._control_open = True
        # The keeper is gone, and with it all that it kept.
        self.ended: asyncio.Future[None] = self._loop.create_future()
        # The server's own process is gone; what it started may live on.
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self._status = b""
        self.stderr = b""
        self.stdout = asyncio.StreamReader(MESSAGE_MAX_BYTES)
        self._transports: list[asyncio.BaseTransport] = []
        self.stdin: asyncio.StreamWriter | None = None

    @classmethod
    async def start(cls, argv: list[str], env: Mapping[str, str], cwd: str) -> "Kept":
        """Raises OSError."""
        token = secrets.token_hex(16)
        read_end, write_end = os.pipe()
        try:
            launch = Launch(
                argv=[os.fsencode(argument) for argument in argv],
                env=encoded({**env, process_tree.TOKEN_VARIABLE: token}),
                cwd=os.fsencode(cwd),
                kill_grace_ms=_KILL_GRACE_MS,
                descriptors={0: read_end},
                limits={resource.RLIMIT_CORE: 0},
            )
            kept = cls(await nursery.launch(launch), write_end, token)
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        try:
            await kept._open()
        except BaseException:
            await to_the_end(kept.end())
            raise
        return kept

    async def _open(self) -> None:
        loop, pipes = self._loop, self._pipes
        loop.add_reader(pipes.status, self._read_status)
        loop.add_reader(pipes.stderr, self._read_stderr)
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.stdout), os.fdopen(os.dup(pipes.stdout), "rb", 0)
        )
        self._transports.append(reading)
        file = os.fdopen(self._stdin_end, "wb", 0)
        self._stdin_end = -1
        writing, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), file
        )
        self._transports.append(writing)
        self.stdin = asyncio.StreamWriter(writing, protocol, None, loop)
        with contextlib.suppress(BrokenPipeError):  # a keeper that was killed: seen by the status pipe
            os.write(pipes.control, b"g")

    def why(self) -> ServerEnded:
        """How it ended."""
        said = self.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        how = "the program was ended"
        for line in self._status.decode("utf-8", "replace").splitlines():
            word, _, rest = line.partition(" ")
            if word == "exit":
                how = f"the program exited with {rest}"
            elif word == "failed":
                how = f"the program could not be started: {rest}"
        return ServerEnded(how, said)

    async def end(self) -> None:
        """Its input is closed; then the whole tree is ended. Nothing is left when this returns."""
        if self.stdin is not None:
            self.stdin.close()
            await asyncio.wait([self.exited, self.ended], timeout=_GOODBYE_S, return_when=asyncio.FIRST_COMPLETED)
        if self._control_open:
            self._control_open = False
            os.close(self._pipes.control)
        await asyncio.wait([self.ended])
        if b"done" not in self._status:
            process_tree.send(process_tree.with_token(self._token), signal.SIGKILL)
        self._close()

    def _close(self) -> None:
        for transport in self._transports:
            if not transport.is_closing():
                transport.close()
        self._loop.remove_reader(self._pipes.stderr)
        for descriptor in (self._pipes.stdout, self._pipes.stderr, self._pipes.status):
            os.close(descriptor)
        if self._stdin_end >= 0:
            os.close(self._stdin_end)

    def _read_status(self) -> None:
        with contextlib.suppress(BlockingIOError):
            line = os.read(self._pipes.status, 4096)
            if line:
                self._status += line
                if not self.exited.done():
                    self.exited.set_result(None)
            else:
                self._loop.remove_reader(self._pipes.status)
                self.ended.set_result(None)

    def _read_stderr(self) -> None:
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._pipes.stderr, _READ_BYTES)
            if not said:
                self._loop.remove_reader(self._pipes.stderr)
            self.stderr = (self.stderr + said)[-_STDERR_KEPT_BYTES:]


@contextlib.asynccontextmanager
async def kept_streams(argv: list[str], env: Mapping[str, str], cwd: str) -> AsyncGenerator[TransportStreams, None]:
    """Raises OSError; ServerEnded where it ends before its user does."""
    kept = await Kept.start(argv, env, cwd)
    to_us, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, from_us = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_receive, kept, to_us)
            tasks.start_soon(_send, kept, from_us)
            yield incoming, outgoing
            tasks.cancel_scope.cancel()
    finally:
        for stream in (to_us, incoming, outgoing, from_us):
            stream.close()
        await to_the_end(kept.end())


async def _receive(kept: Kept, to_us: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
    with to_us:
        while True:
            try:
                line = await kept.stdout.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                raise ServerEnded(f"it sent a message of more than {MESSAGE_MAX_BYTES} bytes") from None
            except asyncio.IncompleteReadError:
                await asyncio.wait([kept.exited], timeout=_GOODBYE_S)
                raise kept.why() from None
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                continue  # what is no message is nobody's: programs print all kinds of things
            await to_us.send(SessionMessage(message))


async def _send(kept: Kept, from_us: MemoryObjectReceiveStream[SessionMessage]) -> None:
    assert kept.stdin is not None
    with from_us, contextlib.suppress(ConnectionError):  # it is gone: `_receive` tells
        async for sent in from_us:
            kept.stdin.write(sent.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await kept.stdin.drain()
