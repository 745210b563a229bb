"""What the sandbox tests share: a task in a folder of its own, and a way to ask whether anything is left of it."""

import asyncio
import os
import socket
import tempfile
import uuid
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

    async def begin(self, task: ShellTask, within_s: float = 20.0) -> "asyncio.Future[TaskResult]":
        """The running task, once its first output is here."""
        heard = asyncio.Event()
        running = asyncio.ensure_future(self.backend.run(task, lambda *_: heard.set(), self._started))
        await asyncio.wait_for(heard.wait(), within_s)
        return running

    async def _started(self, mark: ProcessMark) -> None:
        self.marks.append(mark)


async def nothing_outlives(
    observed: Observed, make_task: MakeTask, *, setsid: str, timeout_ms: int, within_s: float
) -> None:
    """Timed out, over, or cancelled: neither a task that ignores SIGTERM nor its orphans of a double fork live on."""
    sleep = f"sleep {600 + uuid.uuid4().int % 10**6 / 10**7:.7f}"
    stubborn = f"trap '' TERM; (env -i {setsid} sh -c 'trap \"\" TERM; {sleep}' &); {sleep}"
    assert (await observed.run(make_task(stubborn, timeout_ms=timeout_ms))).timed_out
    assert processes_saying(sleep) == []

    ended = await observed.run(make_task(f"(setsid {sleep} &); echo over"))
    assert ended.stdout == "over\n"
    assert processes_saying(sleep) == []

    running = asyncio.ensure_future(observed.run(make_task(stubborn)))
    async with asyncio.timeout(within_s):
        while not processes_saying(sleep):
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_saying(sleep) == []


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


def own_address() -> str:
    """An address of this machine that is not the loopback's; the loopback's where there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsent:
        try:
            unsent.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(unsent.getsockname()[0])
