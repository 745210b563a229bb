"""What the sandbox tests share: a task in a folder of its own, and a way to ask whether anything is left of it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vespid_agent.sandbox.task import Backend, ProcessMark, ShellTask, TaskResult
from vespid_agent.sandbox.workdir import Workdirs

MakeTask = Callable[..., ShellTask]
Run = Callable[..., object]


@pytest.fixture
def workdirs() -> Iterator[Workdirs]:
    # Not tmp_path: its parents are closed to other users, which is a case of its own below.
    with tempfile.TemporaryDirectory(prefix="vespid-test-") as folder:
        yield Workdirs(Path(folder) / "work")


@pytest.fixture
def make_task(workdirs: Workdirs) -> MakeTask:
    def make(
        script: str, *, node: str = "n1", timeout_ms: int = 20_000, cap: int = 65_536, **more: object
    ) -> ShellTask:
        return ShellTask(
            request_id=f"run:{node}:1",
            run_id="run",
            node_id=node,
            script=script,
            workdir=workdirs.open("run", node),
            timeout_ms=timeout_ms,
            output_max_chars=cap,
            **more,  # type: ignore[arg-type]
        )

    return make


class Observed:
    """One run of a task with all it said while it ran."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.marks: list[ProcessMark] = []
        self.chunks: list[tuple[str, str, int]] = []

    async def run(self, task: ShellTask) -> TaskResult:
        return await self.backend.run(task, lambda *chunk: self.chunks.append(chunk), self._started)

    async def _started(self, mark: ProcessMark) -> None:
        self.marks.append(mark)


def processes_saying(text: str) -> list[int]:
    """Processes with `text` in their command line, whoever's they are."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if text.encode() in line and int(name) != os.getpid():
                found.append(int(name))
    return found
