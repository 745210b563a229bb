"""The host backend: the task runs as the agent's own user, with its files and its network.

It keeps a task from outliving its end, from flooding the agent and from inheriting the agent's environment. It does not
keep it from anything the agent's user may do: that is what the other backends are for.
"""

import os
import resource
import secrets
import shutil

from vespid_agent.sandbox import keeper, process_tree, supervise
from vespid_agent.sandbox.script import SCRIPT_DESCRIPTOR, SCRIPT_PATH, memory_file
from vespid_agent.sandbox.task import Availability, OnOutput, ProcessMark, SandboxError, ShellTask, TaskResult

DEFAULT_KILL_GRACE_MS = 500

# All that a task sees of the agent's environment; the rest comes with the task.
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostBackend:
    name = "host"

    def __init__(self, *, kill_grace_ms: int = DEFAULT_KILL_GRACE_MS, file_bytes: int = 0) -> None:
        """`file_bytes`: the largest file that a task may write; 0: no limit."""
        self._kill_grace_ms = kill_grace_ms
        self._limits = {resource.RLIMIT_CORE: 0} | ({resource.RLIMIT_FSIZE: file_bytes} if file_bytes else {})

    async def available(self) -> Availability:
        if not keeper.is_supported():
            return Availability(False, "the host backend of this version needs Linux; use docker here")
        if shutil.which("sh") is None:
            return Availability(False, "there is no `sh` in PATH")
        return Availability(True, notes=("tasks have the files, the network and the rights of the agent's user",))

    async def run(self, task: ShellTask, on_output: OnOutput, started: supervise.Started) -> TaskResult:
        if task.network == "none":
            message = "the host backend cannot keep a task from the network; use bubblewrap or docker"
            raise SandboxError("HOST_NETWORK_MODE_UNSUPPORTED", message)
        path = task.env.get("PATH") or os.environ.get("PATH") or _DEFAULT_PATH
        shell = shutil.which(task.shell, path=path) or shutil.which(task.shell)
        if shell is None:
            raise SandboxError("SANDBOX_UNAVAILABLE:host", f"there is no `{task.shell}` in PATH")
        token = secrets.token_hex(16)
        script = memory_file("script", task.script.encode("utf-8", "replace"))
        try:
            launch = keeper.Launch(
                argv=[shell, SCRIPT_PATH],
                env=self._environment(task, token),
                cwd=task.workdir,
                kill_grace_ms=self._kill_grace_ms,
                descriptors={SCRIPT_DESCRIPTOR: script},
                limits=self._limits,
            )
            return await supervise.supervise(launch, task, self.name, token, on_output, started)
        finally:
            os.close(script)

    async def sweep(self) -> None:
        """Every process of a task has its mark, and nothing else is left of one."""

    async def close(self) -> None:
        """Nothing is held between tasks."""

    async def reap(self, mark: ProcessMark) -> None:
        await supervise.reap(mark, self._kill_grace_ms)

    @staticmethod
    def _environment(task: ShellTask, token: str) -> dict[str, str]:
        base = {name: os.environ[name] for name in _PASSED if name in os.environ}
        base.setdefault("PATH", _DEFAULT_PATH)
        return base | dict(task.env) | {process_tree.TOKEN_VARIABLE: token}
