"""What the host backend needs of the machine's system: to start a shell, and to end all that comes of it.

Linux has a keeper process (`host_linux`), other POSIX systems a process group (`process_group`), Windows a job object
(`job_object`).
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vespid_agent.sandbox.task import OnOutput, ProcessMark, Shell, ShellTask, Started, TaskResult

# The code of every refusal of the host backend.
UNAVAILABLE = "SANDBOX_UNAVAILABLE:host"
POSIX_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Launch:
    """One task's shell, found, and the environment it gets."""

    # Full path of the shell's executable.
    shell: str
    env: Mapping[str, str]
    # Random; part of `env`.
    token: str
    # Between asking what runs to end and ending it.
    kill_grace_ms: int
    # The largest file that the task may write; 0: no limit. Kept on Linux only.
    file_bytes: int = 0


class HostPart(Protocol):
    """One system's way to run a task. As with a backend, nothing of the task is left when `run` is over."""

    # What does not hold on this system, for people.
    notes: tuple[str, ...]

    def missing(self) -> str | None:
        """What this machine lacks for any task, and what to do; None when nothing."""
        ...

    def environment(self, task: Mapping[str, str]) -> dict[str, str]:
        """The task's own variables, and those of the agent that every task gets."""
        ...

    def find_shell(self, shell: Shell, path: str) -> str | None:
        """Full path of that shell; `path` is the task's PATH."""
        ...

    async def run(self, launch: Launch, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        """As `Backend.run`. Raises `SandboxError`."""
        ...

    async def reap(self, mark: ProcessMark, kill_grace_ms: int) -> None:
        """As `Backend.reap`. Raises `SandboxError`."""
        ...


class PosixShells:
    """The half of a part that all POSIX systems share."""

    def missing(self) -> str | None:
        return None if shutil.which("sh") else "there is no `sh` in PATH"

    def environment(self, task: Mapping[str, str]) -> dict[str, str]:
        base = {name: os.environ[name] for name in POSIX_PASSED if name in os.environ}
        return {"PATH": _DEFAULT_PATH} | base | dict(task)

    def find_shell(self, shell: Shell, path: str) -> str | None:
        return shutil.which(shell, path=path) or shutil.which(shell)
