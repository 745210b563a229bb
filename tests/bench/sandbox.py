"""What it takes to start a task in each sandbox, beside the bare program that it rests on, in the same run."""

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.bench.installation import Installation
from tests.bench.report import Figure, figure
from tests.support.container_engine import IMAGE, ContainerEngine, running_engine

from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.docker.backend import DockerBackend
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.task import Backend, ProcessMark, ShellTask
from vespid_agent.sandbox.workdir import SLOTS, Workdirs

COUNT = 20
WARM_UP = 3
_BWRAP = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "sh", "-c", "true")


async def sandbox(_at: Installation, _floors: object) -> dict[str, Figure]:
    """From `run` to the first byte of an `echo`, and to its result; where there is no engine, without docker."""
    found: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(prefix="vespid-bench-") as folder:
        Path(folder).chmod(0o755)
        bench = _Bench(Workdirs(Path(folder) / "work"))
        found |= await bench.figures("host", HostBackend(), ("sh", "-c", "true"))
        if shutil.which("bwrap") is not None:
            found |= await bench.figures("bubblewrap", BubblewrapBackend(), _BWRAP)
        async with running_engine() as engine:
            if engine is not None:
                found |= await bench.docker(engine)
    return found


class _Bench:
    def __init__(self, workdirs: Workdirs) -> None:
        self._workdirs = workdirs
        self._number = 0

    async def figures(self, name: str, backend: Backend, bare: tuple[str, ...]) -> dict[str, Figure]:
        """One after the other in turns, so that a neighbour disturbs both alike."""
        state = await backend.available()
        if not state.ok:
            raise RuntimeError(f"{name}: {state.reason}")
        first, total, floor = [], [], []
        try:
            for turn in range(WARM_UP + COUNT):
                took = await self._task(backend)
                bare_ms = await _milliseconds(lambda: _execute(bare))
                if turn >= WARM_UP:
                    first.append(took[0])
                    total.append(took[1])
                    floor.append(bare_ms)
        finally:
            await backend.close()
        floor_ms = statistics.median(floor)
        return {
            f"sandbox_{name}_first_ms": figure(statistics.median(first), "ms", floor_ms),
            f"sandbox_{name}_ms": figure(statistics.median(total), "ms", floor_ms),
        }

    async def docker(self, engine: ContainerEngine) -> dict[str, Figure]:
        program = shutil.which("docker")
        host = f"unix://{engine.socket}"
        run = ("docker", "-H", host, "run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", IMAGE, "-c", "true")
        found: dict[str, Figure] = {}
        for name, prepared in (("docker", 0), ("docker_prepared", 2)):
            backend = DockerBackend(
                image=IMAGE,
                owner="bench",
                slots=self._workdirs.root / SLOTS,
                environment=engine.environment,
                prepared=prepared,
            )
            found |= await self.figures(name, backend, run if program else ("true",))
        return found

    async def _task(self, backend: Backend) -> tuple[float, float]:
        self._number += 1
        node = f"n{self._number}"
        task = ShellTask(node, "run", node, "echo x", self._workdirs.open("run", node), 30_000, 4000)
        pool = getattr(backend, "_pool", None)
        if pool is not None:
            # What a task finds that comes after a pause: the next ones are ready.
            await asyncio.gather(*pool._tasks)
        heard: list[float] = []
        begun = time.perf_counter()
        result = await backend.run(task, lambda *_: heard.append(time.perf_counter()), _no_journal)
        ended = time.perf_counter()
        if result.stdout != "x\n":
            raise RuntimeError(f"{backend.name}: {result}")
        return (heard[0] - begun) * 1000, (ended - begun) * 1000


async def _no_journal(_mark: ProcessMark) -> None:
    """The journal's fsync is not what is measured."""


async def _execute(arguments: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(*arguments, stdin=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{arguments}: exit status {process.returncode}")


async def _milliseconds(call: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    await call()
    return (time.perf_counter() - begun) * 1000
