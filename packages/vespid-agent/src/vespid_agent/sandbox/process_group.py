"""The host backend on macOS and other POSIX systems: each task is a session and process group of its own.

Beside it a small shell, in a group of its own, waits for the end of the agent: its standard input is a pipe that only
the agent holds, so it learns of a `kill -9` too, and ends the group then.

What leaves the group (`setsid`) is found as a descendant, or by the token in its environment where the system shows
that. What left the group, lost its parent *and* cannot be known by its environment is not found: only a keeper that is
a subreaper could, and only Linux has those.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

from vespid_agent.sandbox import piped, process_list, process_tree
from vespid_agent.sandbox.host_part import Launch, PosixShells
from vespid_agent.sandbox.task import OnOutput, ProcessMark, SandboxError, ShellTask, Started, TaskResult

assert sys.platform != "win32"

# `sh -c WATCH <name> <group> <grace>`.
_WATCH = "read -r _; kill -TERM -$1; kill -CONT -$1; sleep $2; kill -KILL -$1"
_POLL_S = 0.01
# After SIGKILL a process can only be held up by the kernel; then we say so and go.
_KILL_PATIENCE_S = 10.0
_KILL_ROUND_S = 0.5


class GroupHost(PosixShells):
    notes: tuple[str, ...] = (
        "a process that starts a session, loses its parent and hides its environment outlives its task",
    )

    def __init__(self) -> None:
        self._boot_id = ""

    async def run(self, launch: Launch, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        boot_id = await self._boot()

        async def begin(pipes: piped.Pipes) -> piped.Tree:
            return await _begin(pipes, launch, task, boot_id)

        return await piped.supervise(begin, launch.token, task, on_output, started)

    async def reap(self, mark: ProcessMark, kill_grace_ms: int) -> None:
        """The watch of the dead agent is at it for the grace; then whatever is left. Raises `SandboxError`."""
        if mark.boot_id != await self._boot():
            return
        everyone = await process_list.listed()
        # A group whose leader is gone may be another's by now: only the token tells.
        ours = any(process.pid == mark.pid and process.started_at(mark.start_ticks) for process in everyone)
        left = await _end_all(mark.token, mark.pid if ours else None, kill_grace_ms)
        if left:
            raise SandboxError("NODE_EXECUTION_FAILED", f"processes {left} of an earlier task cannot be killed")

    async def _boot(self) -> str:
        if not self._boot_id:
            self._boot_id = await process_list.boot_id()
        return self._boot_id


class _GroupTree:
    def __init__(self, mark: ProcessMark, watch: asyncio.subprocess.Process, kill_grace_ms: int) -> None:
        self.mark = mark
        self._watch = watch
        self._kill_grace_ms = kill_grace_ms

    async def end(self) -> list[int]:
        try:
            return await _end_all(self.mark.token, self.mark.pid, self._kill_grace_ms)
        finally:
            # Last, because the agent may be killed while it waits above.
            await _dismiss(self._watch)


async def _begin(pipes: piped.Pipes, launch: Launch, task: ShellTask, boot_id: str) -> _GroupTree:
    """Raises OSError, with nothing left."""
    now = int(time.time())
    loop = asyncio.get_running_loop()
    transport, _ = await loop.subprocess_exec(
        lambda: pipes,
        *(launch.shell, "-c", piped.GATE, task.shell, launch.token),
        env=launch.env,
        cwd=task.workdir,
        start_new_session=True,
    )
    group = transport.get_pid()
    try:
        watch = await _watch(group, launch.kill_grace_ms)
    except BaseException:
        transport.kill()
        await pipes.close()
        raise
    return _GroupTree(ProcessMark("host", group, now, boot_id, launch.token), watch, launch.kill_grace_ms)


async def _watch(group: int, kill_grace_ms: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("sh", "-c", _WATCH, "vespid-watch", str(group), f"{kill_grace_ms / 1000:.3f}"),
        env={"PATH": "/bin:/usr/bin"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _dismiss(watch: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        watch.kill()
    await watch.wait()


async def _end_all(token: str, group: int | None, kill_grace_ms: int) -> list[int]:
    """SIGTERM, the grace, SIGKILL. Returns who is left when patience is at its end."""

    async def members() -> list[int]:
        return process_list.of_task(await process_list.listed(), token, group)

    left = await members()
    if not left:
        return []
    process_tree.send(left, signal.SIGTERM)
    # A stopped process hears SIGTERM only once it goes on.
    process_tree.send(left, signal.SIGCONT)
    await _wait_gone(left, kill_grace_ms / 1000)
    give_up = time.monotonic() + _KILL_PATIENCE_S
    while (left := await members()) and time.monotonic() < give_up:
        # All are stopped before any is killed, or a fork bomb would refill the list as fast as it is read.
        process_tree.send(left, signal.SIGSTOP)
        left = sorted({*left, *await members()})
        process_tree.send(left, signal.SIGKILL)
        await _wait_gone(left, _KILL_ROUND_S)
    return left


async def _wait_gone(pids: Iterable[int], seconds: float) -> None:
    """At most so long: a zombie nobody collects is here still, and only `ps` tells it apart."""
    until = time.monotonic() + seconds
    waiting = set(pids)
    while waiting and time.monotonic() < until:
        waiting = {pid for pid in waiting if _is_there(pid)}
        if waiting:
            await asyncio.sleep(_POLL_S)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
