"""The host backend: the task runs as the agent's own user, with its files and its network.

It keeps a task from outliving its end, from flooding the agent and from inheriting the agent's environment. It does not
keep it from anything the agent's user may do: that is what the other backends are for.
"""

import os
import secrets
import sys
from pathlib import Path

from vespid_agent.sandbox import process_tree
from vespid_agent.sandbox.host_part import UNAVAILABLE, HostPart, Launch
from vespid_agent.sandbox.task import (
    Availability,
    OnOutput,
    ProcessMark,
    SandboxError,
    ShellTask,
    Started,
    TaskResult,
    check_task,
)

DEFAULT_KILL_GRACE_MS = 500


class HostBackend:
    name = "host"

    def __init__(
        self, *, kill_grace_ms: int = DEFAULT_KILL_GRACE_MS, file_bytes: int = 0, part: HostPart | None = None
    ) -> None:
        """`file_bytes`: the largest file that a task may write, where the system keeps to that; 0: no limit. `part`:
        this system's own, unless another is named."""
        self._kill_grace_ms = kill_grace_ms
        self._file_bytes = file_bytes
        self._part = part or part_of_this_system()

    async def available(self) -> Availability:
        missing = self._part.missing()
        if missing is not None:
            return Availability(False, missing)
        notes = ("tasks have the files, the network and the rights of the agent's user", *self._part.notes)
        return Availability(True, notes=notes)

    async def run(self, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        if task.network == "none":
            message = "the host backend cannot keep a task from the network; use bubblewrap or docker"
            raise SandboxError("HOST_NETWORK_MODE_UNSUPPORTED", message)
        check_task(task)
        token = secrets.token_hex(16)
        env = self._part.environment({**task.env, process_tree.TOKEN_VARIABLE: token})
        shell = self._part.find_shell(task.shell, env.get("PATH") or os.defpath)
        if shell is None:
            message = self._part.missing() or f"there is no `{task.shell}` in PATH"
            raise SandboxError(UNAVAILABLE, message)
        launch = Launch(shell, env, token, self._kill_grace_ms, self._file_bytes)
        return await self._part.run(launch, task, on_output, started)

    async def root_of(self, mark: ProcessMark, workdir: Path) -> int | None:
        return mark.pid or None

    async def sweep(self) -> None:
        """Every process of a task has its mark, and nothing else is left of one."""

    async def close(self) -> None:
        """Nothing is held between tasks."""

    async def reap(self, mark: ProcessMark) -> None:
        await self._part.reap(mark, self._kill_grace_ms)


def part_of_this_system() -> HostPart:
    """Imported only here: none of them can be everywhere."""
    if sys.platform == "linux":
        from vespid_agent.sandbox.host_linux import KeptHost

        return KeptHost()
    elif sys.platform == "win32":
        from vespid_agent.sandbox.job_object import JobHost

        return JobHost()
    else:
        from vespid_agent.sandbox.process_group import GroupHost

        return GroupHost()
