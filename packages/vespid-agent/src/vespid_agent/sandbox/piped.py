"""A task without a keeper: the agent itself holds the shell's pipes, its time and its end.

The shell is started at once but waits at a gate for its script, which goes in on its standard input when the journal
entry is on disk: so the script is on no disk, in no process list and of any length. It ends with a seal, and nothing
of it runs where the seal is missing because the agent died while writing. Then standard input is empty.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, cast

from vespid_agent.sandbox.ending import runs_out_of_time, to_the_end
from vespid_agent.sandbox.host_part import UNAVAILABLE
from vespid_agent.sandbox.output import capture_of
from vespid_agent.sandbox.task import OnOutput, ProcessMark, SandboxError, ShellTask, Started, Stream, TaskResult

# `sh -c GATE <name> <seal>`. `ulimit`: a core dump would hold what the task knew.
GATE = (
    "ulimit -c 0 2>/dev/null; "
    'set -- "$1" "$(cat)"; '
    'case $2 in *"$1") eval "set --; ${2%$1}" </dev/null ;; *) exit 125 ;; esac'
)

_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
# Beyond its cap output is only counted; a task that prints without end must not take the loop from the heartbeat.
_OVER_CAP_PAUSE_S = 0.002
# For what was written before the last writer ended. Longer only where a process that escaped holds the pipe.
_DRAIN_S = 1.0
_CLOSE_S = 5.0


class Tree(Protocol):
    """All that comes of one started shell."""

    mark: ProcessMark

    async def end(self) -> list[int]:
        """Returns when nothing is left, else the pids that cannot be ended. May be called when all has ended."""
        ...


class Pipes(asyncio.SubprocessProtocol):
    """The agent's ends of one shell's standard streams."""

    def __init__(self, task: ShellTask, on_output: OnOutput) -> None:
        self._loop = asyncio.get_running_loop()
        # The shell itself has ended; what it started may live on.
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._drained: asyncio.Future[None] = self._loop.create_future()
        self._open = set(_STREAMS)
        self._captures = {fd: capture_of(stream, task, on_output) for fd, stream in _STREAMS.items()}
        self._paused: dict[int, asyncio.TimerHandle] = {}
        self._transport: asyncio.SubprocessTransport | None = None
        # What the caller's callback raised: raised to it by `texts`.
        self._failure: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        capture = self._captures[fd]
        with self._failing():
            capture.feed(data)
        if capture.over_cap:
            self._output(fd).pause_reading()
            self._paused[fd] = self._loop.call_later(_OVER_CAP_PAUSE_S, self._resume, fd)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open and not self._drained.done():
            self._drained.set_result(None)

    def process_exited(self) -> None:
        self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set_result(None)

    def give_script(self, script: bytes) -> None:
        """All at once and the end of it; the transport writes as the shell reads."""
        assert self._transport is not None
        pipe = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        if not pipe.is_closing():  # closed where the shell was killed at the gate
            pipe.write(script)
            pipe.close()

    async def close(self) -> None:
        """Read what is still there and let go of the pipes."""
        await asyncio.wait([self._drained], timeout=_DRAIN_S)
        for timer in self._paused.values():
            timer.cancel()
        self._paused.clear()
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait([self._closed], timeout=_CLOSE_S)

    def exit_code(self) -> int | None:
        """128 + n where signal n ended the shell."""
        code = self._transport.get_returncode() if self._transport is not None else None
        return 128 - code if code is not None and code < 0 else code

    def texts(self) -> list[tuple[str, bool]]:
        """(text, whether it was cut) of stdout and stderr. Raises what `on_output` raised."""
        found = []
        for capture in self._captures.values():
            with self._failing():
                found.append(capture.finish())
        if self._failure is not None:
            raise self._failure
        return found

    def _output(self, fd: int) -> asyncio.ReadTransport:
        # Not asked by `isinstance`: uvloop's transports are of no class of asyncio's.
        assert self._transport is not None
        return cast(asyncio.ReadTransport, self._transport.get_pipe_transport(fd))

    def _resume(self, fd: int) -> None:
        self._paused.pop(fd, None)
        if fd in self._open and not self._output(fd).is_closing():
            self._output(fd).resume_reading()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as failure:  # noqa: BLE001 - the caller's callback, which must not break the transport
            self._failure = self._failure or failure


async def supervise(
    begin: Callable[[Pipes], Awaitable[Tree]],
    seal: str,
    task: ShellTask,
    on_output: OnOutput,
    started: Started,
) -> TaskResult:
    """Run to the end, the timeout or the cancellation; in each case nothing is left. Raises `SandboxError`.

    `begin` starts a shell at the gate, or raises OSError with nothing left.
    """
    pipes = Pipes(task, on_output)
    try:
        tree = await begin(pipes)
    except OSError as refused:
        message = f"cannot start the task: {refused.strerror or refused}"
        raise SandboxError(UNAVAILABLE, message, retryable=True) from refused
    try:
        await started(tree.mark)
        begun = time.monotonic()
        pipes.give_script(task.script.encode("utf-8", "replace") + seal.encode())
        timed_out = await runs_out_of_time(task, pipes.exited)
    except BaseException:
        await to_the_end(_end(tree, pipes))
        raise
    left = await to_the_end(_end(tree, pipes))
    if left:
        message = f"processes {left} cannot be killed; the kernel holds them"
        raise SandboxError("NODE_EXECUTION_FAILED", message, retryable=True)
    (stdout, stdout_cut), (stderr, stderr_cut) = pipes.texts()
    return TaskResult(
        exit_code=None if timed_out else pipes.exit_code(),
        timed_out=timed_out,
        stdout=stdout,
        stderr=stderr,
        stdout_truncated=stdout_cut,
        stderr_truncated=stderr_cut,
        duration_ms=int((time.monotonic() - begun) * 1000),
    )


async def _end(tree: Tree, pipes: Pipes) -> list[int]:
    try:
        return await tree.end()
    finally:
        await pipes.close()
