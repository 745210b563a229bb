"""The host backend on Linux: a keeper for each task is the subreaper of all that the task starts."""

import os
import resource
import sys

from vespid_agent.sandbox import launch as launches
from vespid_agent.sandbox import supervise
from vespid_agent.sandbox.host_part import Launch, PosixShells
from vespid_agent.sandbox.script import SCRIPT_DESCRIPTOR, SCRIPT_PATH, memory_file
from vespid_agent.sandbox.task import OnOutput, ProcessMark, ShellTask, Started, TaskResult

assert sys.platform == "linux"


class KeptHost(PosixShells):
    notes: tuple[str, ...] = ()

    async def run(self, launch: Launch, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        limits = {resource.RLIMIT_CORE: 0}
        if launch.file_bytes:
            limits[resource.RLIMIT_FSIZE] = launch.file_bytes
        script = memory_file("script", task.script.encode("utf-8", "replace"))
        try:
            kept = launches.Launch(
                argv=[os.fsencode(launch.shell), SCRIPT_PATH.encode()],
                env=launches.encoded(launch.env),
                cwd=os.fsencode(task.workdir),
                kill_grace_ms=launch.kill_grace_ms,
                descriptors={SCRIPT_DESCRIPTOR: script},
                limits=limits,
            )
            return await supervise.supervise(kept, task, "host", launch.token, on_output, started)
        finally:
            os.close(script)

    async def reap(self, mark: ProcessMark, kill_grace_ms: int) -> None:
        await supervise.reap(mark, kill_grace_ms)
