"""What a sandbox backend takes and gives: one shell task in, its output while it runs, one result.

Every backend keeps the same promise: when `run` has returned, raised or been cancelled, nothing of the task lives on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

import msgspec

from vespid_runtime.redaction import Redactor

Network = Literal["none", "enabled"]
Shell = Literal["sh", "bash"]
Stream = Literal["stdout", "stderr"]

# (stream, text, offset): offset counts the characters of that stream so far; a gap means that output was cut there.
OnOutput = Callable[[Stream, str, int], None]


class SandboxError(Exception):
    """A task could not be run at all; `code` is of the contract (SANDBOX_UNAVAILABLE:<backend>, …)."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class ShellTask:
    request_id: str
    run_id: str
    node_id: str
    script: str
    workdir: Path
    timeout_ms: int
    output_max_chars: int
    # Standard output is only told as it comes, up to so much, and the result has none of it; on the host alone.
    streamed_max_chars: int | None = None
    shell: Shell = "sh"
    # Complete task environment besides the backend's minimal one; wins over it.
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    # None where the node says nothing: host runs with the network, bubblewrap and docker without.
    network: Network | None = None
    image: str | None = None
    # Masks output before it is cut, so that no half of a secret is left at the cut.
    redactor: Redactor | None = None
    # Other tasks may be at work in the same folder.
    shared: bool = False
    # Once it is done the task is ended, as when its time is over; the result has what there is of one.
    halt: asyncio.Future[None] | None = None


def check_task(task: ShellTask) -> None:
    """What every backend refuses. Raises SandboxError."""
    for name, value in task.env.items():
        # A NUL ends a value; what follows would be taken for something else, by bwrap for an option.
        if not name or "=" in name or "\0" in name + value:
            message = f"config.task.env: {name[:64]!r} or its value cannot be in an environment"
            raise SandboxError("INVALID_EXECUTE_PAYLOAD", message)
    if task.workdir.is_symlink():
        raise SandboxError("WORKDIR_UNSAFE", f"{task.workdir} is a link; remove it")


@dataclass(frozen=True, slots=True)
class TaskResult:
    # 128 + n when signal n ended the shell; None when it was ended by us.
    exit_code: int | None
    timed_out: bool
    # Head and tail with a mark between them where they were cut.
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    duration_ms: int
    # Why it ended so, where the backend knows more than the exit code says.
    note: str | None = None


class QuotaExceeded(SandboxError):
    """The task was ended, or had ended, with too much in its folder; `result` is what there is of one."""

    def __init__(self, message: str, result: TaskResult | None = None) -> None:
        super().__init__("WORKDIR_QUOTA_EXCEEDED", message)
        self.result = result


class ProcessMark(msgspec.Struct, frozen=True, rename="camel"):
    """What the journal keeps of a started task, enough to find and end it after the agent itself was killed."""

    backend: str
    pid: int
    # When `pid` started, in clock ticks after boot on Linux, else in seconds since 1970: tells a reused pid apart.
    start_ticks: int
    # A mark of an earlier boot has nothing left to reap.
    boot_id: str
    # Random; every process of the task has it in its environment, its cgroup in its name.
    token: str


Started = Callable[[ProcessMark], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Availability:
    ok: bool
    # Why not and what to do, for people; None when ok.
    reason: str | None = None
    # What holds here and what does not (e.g. memory limit by cgroup or by rlimit), for `doctor` and start-up logs.
    notes: tuple[str, ...] = ()


class Backend(Protocol):
    """One way to run a task. `run` may be cancelled at any moment and then leaves nothing behind before it raises."""

    name: str

    async def available(self) -> Availability: ...

    async def run(self, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        """`started` has returned (its journal entry is on disk) before the first byte of the script runs.

        Raises `SandboxError`.
        """
        ...

    async def root_of(self, mark: ProcessMark, workdir: Path) -> int | None:
        """The process that is, or is above, all of a running task's; None where this machine does not see it."""
        ...

    async def sweep(self) -> None:
        """Once, before the first task: end what an earlier process of this agent left and no mark tells of."""
        ...

    async def close(self) -> None:
        """After the last task: let go of whatever the backend itself holds."""
        ...

    async def reap(self, mark: ProcessMark) -> None:
        """End whatever a mark of an earlier agent process left behind. Returns when it is gone; harmless to repeat."""
        ...
