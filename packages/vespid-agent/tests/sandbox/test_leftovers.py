"""Hundreds of tasks in a row, and many at once, leave the machine and the agent as they were."""

import asyncio
import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.container_engine import ContainerEngine

from vespid_agent.sandbox import nursery, process_tree
from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.cgroup import Cgroups
from vespid_agent.sandbox.docker.backend import DockerBackend
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.workdir import SLOTS, Workdirs

from .conftest import MakeTask, Observed
from .test_docker import backend_of

pytestmark = [pytest.mark.promise("P11"), pytest.mark.timeout(600)]

WARM_UP = 20
AT_ONCE = 50
# Of a process that holds a test runner; what one task would leave is far less than this divided by their number.
GROWTH_KB = 12_000
LIMITS = Limits(memory_mb=64, cpus=1, pids=48)


@dataclass(frozen=True)
class Left:
    """Everything that a task could leave."""

    processes: frozenset[int]
    groups: frozenset[Path]
    temporary: frozenset[str]
    slots: int
    mounts: int
    descriptors: tuple[str, ...]


# What is there of the tasks with these tokens, and of this process.
Look = Callable[[set[str]], Left]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that no neighbour uses."""
    with tempfile.TemporaryDirectory(prefix="vespid-left-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def look(temporary: Path, workdirs: Workdirs) -> Look:
    groups = Cgroups.detect()
    slots = workdirs.root / SLOTS
    # Servers that tests share: they start and end processes of their own as they like (Postgres its autovacuum).
    neighbours = _children()

    def left(tokens: set[str]) -> Left:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return Left(
            processes=frozenset(_carrying(tokens)) | _with_descendants(_children() - neighbours) - _prepared(),
            groups=frozenset(path for token in tokens for path in groups.existing(token).directories if path.exists()),
            temporary=frozenset(os.listdir(temporary)),
            slots=len(os.listdir(slots)) if slots.exists() else 0,
            mounts=sum(str(workdirs.root) in line for line in mounts),
            descriptors=tuple(sorted(_descriptors())),
        )

    return left


@pytest.mark.parametrize("name", ["host", "bubblewrap"])
async def test_five_hundred_tasks_and_fifty_at_once_leave_nothing(name: str, look: Look, make_task: MakeTask) -> None:
    backend = HostBackend(kill_grace_ms=200) if name == "host" else BubblewrapBackend(limits=LIMITS, kill_grace_ms=200)
    assert (await backend.available()).ok
    await _put_to_work(Observed(backend), make_task, look, in_a_row=500)


@pytest.mark.xdist_group("docker")
@pytest.mark.needs_root
@pytest.mark.parametrize(("prepared", "in_a_row"), [(0, 60), (2, 500)])
async def test_five_hundred_containers_and_fifty_at_once_leave_nothing(
    container_engine: ContainerEngine,
    look: Look,
    workdirs: Workdirs,
    make_task: MakeTask,
    prepared: int,
    in_a_row: int,
) -> None:
    """With two kept ready and four rows, some tasks get a prepared one and some find none ready and get a fresh one."""
    before = await _at_the_engine(container_engine)
    async with backend_of(container_engine, workdirs, prepared=prepared) as docker:
        await _put_to_work(docker, make_task, look, in_a_row=in_a_row, rows=4)
    assert await _at_the_engine(container_engine) == before
    assert look(set()).slots == 0


async def _put_to_work(
    observed: Observed,
    make_task: MakeTask,
    look: Look,
    *,
    in_a_row: int,
    rows: int = 1,
) -> None:
    tokens: set[str] = set()

    async def left() -> Left:
        await _quieten(observed)
        tokens.update(mark.token for mark in observed.marks)
        observed.marks.clear()
        observed.chunks.clear()
        return look(tokens)

    for number in range(WARM_UP):
        await _one(observed, make_task, number)
    before, resident = await left(), _resident_kb()
    await asyncio.gather(*(_row(observed, make_task, range(row, in_a_row, rows), f"row-{row}") for row in range(rows)))
    await asyncio.gather(*(_one(observed, make_task, number, f"at-once-{number}") for number in range(AT_ONCE)))
    assert await left() == before
    assert len(tokens) == WARM_UP + in_a_row + AT_ONCE
    gc.collect()
    assert _resident_kb() - resident < GROWTH_KB


async def _quieten(observed: Observed) -> None:
    """What is prepared ahead has been; a connection that is kept is not a leak."""
    backend = observed.backend
    async with asyncio.timeout(10):
        while len(_prepared()) != 1 + 2 * nursery.READY:
            await asyncio.sleep(0.01)
    if isinstance(backend, DockerBackend):
        if backend._pool is not None:
            await asyncio.gather(*backend._pool._tasks)
        assert backend._engine is not None
        await backend._engine.close()


async def _row(observed: Observed, make_task: MakeTask, numbers: range, node: str) -> None:
    for number in numbers:
        await _one(observed, make_task, number, node)


async def _one(observed: Observed, make_task: MakeTask, number: int, node: str = "row") -> None:
    """Each leaves an orphan and a file in /tmp for the backend to clear away."""
    script = f"echo {number} > out; echo x > $TMPDIR/left; (sleep 600 &); cat out"
    if isinstance(observed.backend, HostBackend):
        script = script.replace("$TMPDIR/left", "left")  # there /tmp is the machine's
    result = await observed.run(make_task(script, node=node))
    assert (result.exit_code, result.stdout) == (0, f"{number}\n"), result
    (make_task("", node=node).workdir / "out").unlink()
    (make_task("", node=node).workdir / "left").unlink(missing_ok=True)


async def _at_the_engine(engine: ContainerEngine) -> tuple[int, int, int]:
    files = len(os.listdir(engine.folder / "data" / "containers"))
    return len(await engine.containers()), len(await engine.volumes()), files


def _prepared() -> frozenset[int]:
    """The nursery, and the keepers with their starters that wait for a task."""
    nursery.begin()
    assert nursery._current is not None
    return _with_descendants([nursery._current._pid])


def _children() -> frozenset[int]:
    """Of this process, whichever thread started them."""
    lists = (path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return frozenset(int(pid) for found in lists for pid in found.split())


def _with_descendants(roots: Iterable[int]) -> frozenset[int]:
    return frozenset(pid for root in roots for pid in (root, *process_tree.descendants(root)))


def _carrying(tokens: set[str]) -> Iterator[int]:
    """Processes of these tasks, whosever children they are by now."""
    wanted = {f"{process_tree.TOKEN_VARIABLE}={token}".encode() for token in tokens}
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted & set(Path(f"/proc/{name}/environ").read_bytes().split(b"\0")):
                    yield int(name)


def _descriptors() -> Iterator[str]:
    """What each is, without the numbers of pipes and sockets."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{name}").split(":[")[0]


def _resident_kb() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
