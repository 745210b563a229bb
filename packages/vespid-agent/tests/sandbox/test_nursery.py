"""The nursery: keepers that are forked ahead take launches, and neither they nor it outlive what they must not."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from vespid_agent.sandbox import launch as launches
from vespid_agent.sandbox import nursery, process_tree
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.host_linux import KeptHost
from vespid_agent.sandbox.launch import Launch
from vespid_agent.sandbox.task import SandboxError

from .conftest import MakeTask, Observed

pytestmark = pytest.mark.promise("P11")

NOBODY = 65534


@pytest.fixture
def host() -> Observed:
    return Observed(HostBackend(kill_grace_ms=200, part=KeptHost()))


@pytest.fixture(autouse=True)
def own_nursery(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One for this test alone, whatever it does to it."""
    monkeypatch.setattr(nursery, "_current", None)
    yield
    if nursery._current is not None:
        nursery._current.end()


async def full_house() -> tuple[int, list[int]]:
    """The nursery's pid and its waiting keepers with their starters, once all are there."""
    nursery.begin()
    assert nursery._current is not None
    pid = nursery._current._pid
    async with asyncio.timeout(10):
        while len(starters := [each for each in process_tree.descendants(pid) if named(each, "vespid-starter")]) != (
            nursery.READY
        ):
            await asyncio.sleep(0.01)
    return pid, starters + [parent(each) for each in starters]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def named(pid: int, *names: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in names
    except (FileNotFoundError, ProcessLookupError):
        return False


async def all_gone(pids: list[int]) -> None:
    async with asyncio.timeout(5):
        while any(process_tree.is_alive(pid) for pid in pids):
            await asyncio.sleep(0.01)


async def test_a_launch_is_taken_by_a_keeper_that_was_there_before(host: Observed, make_task: MakeTask) -> None:
    for _ in range(nursery.READY):
        _, waiting = await full_house()
        assert (await host.run(make_task("echo x"))).stdout == "x\n"
        assert host.marks[-1].pid in waiting
    await full_house()


async def test_mark_names_the_keeper_and_when_it_began(host: Observed, make_task: MakeTask) -> None:
    running = await host.begin(make_task("echo up; sleep 600"))
    mark = host.marks[0]
    assert named(mark.pid, "vespid-keeper")
    assert process_tree.start_ticks(mark.pid) == mark.start_ticks
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_nursery_and_all_who_wait_end_with_a_killed_agent() -> None:
    read_end, write_end = os.pipe()
    agent = os.fork()
    if agent == 0:
        _agent_that_waits(write_end)
    os.close(write_end)
    prepared = [int(pid) for pid in os.read(read_end, 1000).split()]
    os.close(read_end)
    assert len(prepared) == 1 + 2 * nursery.READY
    assert all(process_tree.is_alive(pid) for pid in prepared)
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    await all_gone(prepared)


async def test_tasks_go_on_without_their_nursery_and_the_next_gets_another(host: Observed, make_task: MakeTask) -> None:
    pid, waiting = await full_house()
    task = make_task("echo up; read -r _ < gate; echo end")
    os.mkfifo(task.workdir / "gate")
    running = await host.begin(task)
    os.kill(pid, signal.SIGKILL)
    await all_gone([pid])
    assert (await host.run(make_task("echo x", node="n2"))).stdout == "x\n"
    assert nursery._current is not None
    assert nursery._current._pid != pid
    await all_gone([each for each in waiting if each not in (host.marks[0].pid, *_below(host.marks[0].pid))])
    await asyncio.to_thread((task.workdir / "gate").write_text, "go\n")
    assert (await running).stdout == "up\nend\n"


async def test_a_task_whose_keeper_never_answered_is_given_to_another_nursery(
    host: Observed, make_task: MakeTask
) -> None:
    pid, waiting = await full_house()
    for process in (pid, *waiting):
        os.kill(process, signal.SIGSTOP)
    running = asyncio.ensure_future(host.run(make_task("echo x >> ran; echo x")))
    await asyncio.sleep(0)  # it is sent by the first step of `run`
    for process in (pid, *waiting):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert (await running).stdout == "x\n"
    assert (make_task("").workdir / "ran").read_text() == "x\n"


async def test_a_stopped_nursery_is_replaced(
    host: Observed, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nursery, "_ANSWER_S", 2.0)  # the replacement has to answer in it too
    pid, waiting = await full_house()
    for process in (pid, *waiting):
        os.kill(process, signal.SIGSTOP)
    assert (await host.run(make_task("echo x"))).stdout == "x\n"
    for process in waiting:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
    await all_gone([pid, *waiting])


async def test_a_killed_starter_is_replaced_and_a_killed_keeper_too(host: Observed, make_task: MakeTask) -> None:
    pid, waiting = await full_house()
    for process in waiting:
        if named(process, "vespid-starter"):
            os.kill(process, signal.SIGKILL)
    for at in range(nursery.READY):
        with contextlib.suppress(SandboxError):  # said of a task that had not begun
            await host.run(make_task("true", node=f"n{at}"))
    assert (await host.run(make_task("echo x"))).stdout == "x\n"
    _, waiting = await full_house()
    for process in waiting:
        os.kill(process, signal.SIGKILL)
    await all_gone(waiting)
    assert (await host.run(make_task("echo x"))).stdout == "x\n"
    assert nursery._current is not None
    assert nursery._current._pid == pid


@pytest.mark.needs_root
async def test_no_room_for_a_process_is_said_and_passes(make_task: MakeTask) -> None:
    """As another user, for root has no such limit."""
    task = make_task("echo x")
    for folder in (task.workdir, *task.workdir.parents[:3]):
        folder.chmod(0o777)
    read_end, write_end = os.pipe()
    agent = os.fork()
    if agent == 0:
        _agent_without_room(write_end, task.workdir)
    os.close(write_end)
    with os.fdopen(read_end) as said:
        lines = await asyncio.to_thread(said.read)
    os.waitpid(agent, 0)
    assert lines.splitlines() == ["refused 11", "refused 11", "ran"]


async def test_a_process_with_other_rights_gets_its_own_nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    pid, _ = await full_house()
    monkeypatch.setattr(nursery, "_rights", lambda: ("others",))
    nursery.begin()
    assert nursery._current is not None
    assert nursery._current._pid != pid


async def test_neither_nursery_nor_those_who_wait_have_anything_of_the_agent_or_a_task(
    host: Observed, make_task: MakeTask, tmp_path: Path
) -> None:
    with (tmp_path / "secret").open("w"):
        pid, _ = await full_house()
        running = await host.begin(make_task("echo up; sleep 600", env={"PASSWORD": "hunter2hunter2"}))
        await full_house()
        keeper = host.marks[0].pid
        others = [pid, *(each for each in process_tree.descendants(pid) if each not in _below(keeper))]
        for each in [keeper, *others]:
            kinds = {target.partition(":")[0] for target in _descriptors(each)}
            assert kinds <= {"/dev/null", "socket", "pipe"}, named
            assert b"hunter2" not in Path(f"/proc/{each}/cmdline").read_bytes()
            assert b"hunter2" not in Path(f"/proc/{each}/environ").read_bytes()
        between = {end for end in _descriptors(os.getpid()) if end.startswith("pipe:")} & set(_descriptors(keeper))
        assert len(between) == 2  # control and status; of stdout and stderr the task alone has the other end
        assert not between & {end for each in others for end in _descriptors(each)}
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_launch_given_up_before_go_leaves_nothing(make_task: MakeTask) -> None:
    nursery.begin()
    pipes = await nursery.launch(_launch(make_task("").workdir, b"echo x > ran"))
    for end in (pipes.control, pipes.stdout, pipes.stderr):
        os.close(end)
    await all_gone([pipes.pid])
    assert os.read(pipes.status, 100).endswith(b"\ndone\n")
    os.close(pipes.status)
    assert not (make_task("").workdir / "ran").exists()


async def test_bytes_that_are_no_text_reach_the_program_as_they_are(make_task: MakeTask) -> None:
    launch = Launch(
        argv=[b"/bin/sh", b"-c", b'test "$X" = "$(printf "\\377")" && echo same'],
        env=launches.encoded({"X": os.fsdecode(b"\xff"), "PATH": os.defpath}),
        cwd=os.fsencode(make_task("").workdir),
        kill_grace_ms=200,
    )
    pipes = await nursery.launch(launch)
    os.write(pipes.control, b"g")
    await all_gone([pipes.pid])
    assert os.read(pipes.stdout, 100) == b"same\n"
    for end in (pipes.control, pipes.stdout, pipes.stderr, pipes.status):
        os.close(end)


async def test_twenty_launches_at_once_by_one_keeper_after_the_other(host: Observed, make_task: MakeTask) -> None:
    ran = await asyncio.gather(*(host.run(make_task(f"echo {at}", node=f"n{at}")) for at in range(20)))
    assert [result.stdout for result in ran] == [f"{at}\n" for at in range(20)]


UVLOOP_PROGRAM = """
import os, uvloop
from vespid_agent.sandbox import nursery
from vespid_agent.sandbox.launch import Launch

async def main():
    pipes = await nursery.launch(Launch([b"/bin/echo", b"x"], {}, b"/", 200))
    os.write(pipes.control, b"g")
    os.set_blocking(pipes.status, True)
    said = b""
    while data := os.read(pipes.status, 100):
        said += data
    print(said, os.read(pipes.stdout, 10))

uvloop.run(main())
"""


async def test_uvloop_that_closes_by_number_in_every_fork_closes_nothing_of_ours() -> None:
    """In a process of its own, which has few descriptors, so that the numbers meet."""
    pytest.importorskip("uvloop")
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", UVLOOP_PROGRAM, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(program.communicate(), 30)
    assert said == b"b'exit 0\\ndone\\n' b'x\\n'\n"


def _launch(workdir: Path, script: bytes) -> Launch:
    return Launch(argv=[b"/bin/sh", b"-c", script], env={}, cwd=os.fsencode(workdir), kill_grace_ms=200)


def _below(pid: int) -> list[int]:
    return [pid, *process_tree.descendants(pid)]


def _descriptors(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def _agent_that_waits(told: int) -> NoReturn:
    """In a forked child."""
    asyncio.events._set_running_loop(None)
    try:
        pid, waiting = asyncio.new_event_loop().run_until_complete(full_house())
        os.write(told, b" ".join(str(each).encode() for each in [pid, *waiting]))
        signal.pause()
    finally:
        os._exit(1)


def _agent_without_room(told: int, workdir: Path) -> NoReturn:
    """In a forked child: launches twice when it may have no more processes, and once when it may again."""

    async def launch_thrice() -> None:
        nursery.begin()
        assert nursery._current is not None
        await full_house()
        before = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.prlimit(nursery._current._pid, resource.RLIMIT_NPROC, (1, before[1]))
        for pid in process_tree.descendants(nursery._current._pid):
            os.kill(pid, signal.SIGKILL)
        await all_gone(process_tree.descendants(nursery._current._pid))
        for _ in range(2):
            try:
                await nursery.launch(_launch(workdir, b"true"))
            except OSError as refused:
                os.write(told, f"refused {refused.errno}\n".encode())
        resource.prlimit(nursery._current._pid, resource.RLIMIT_NPROC, before)
        await nursery.launch(_launch(workdir, b"true"))
        os.write(told, b"ran\n")

    asyncio.events._set_running_loop(None)
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        asyncio.new_event_loop().run_until_complete(launch_thrice())
    except Exception as failure:  # noqa: BLE001 - said to the test
        os.write(told, f"{failure!r}\n".encode())
    finally:
        os._exit(1)
