"""How much a task may keep: added up whatever it does to hide it, and ended when it is too much."""

import asyncio
import os
import stat
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from vespid_agent.sandbox.quota import DEEPEST, Quota, TooDeep, folder_bytes, unnamed_bytes
from vespid_agent.sandbox.removal import empty
from vespid_agent.sandbox.task import QuotaExceeded, SandboxError, ShellTask, TaskResult

MB = 1024 * 1024
ALL = 1 << 60
RESULT = TaskResult(0, False, "", "", False, False, 1)


def fill(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)


def task_in(folder: Path) -> ShellTask:
    return ShellTask("r", "run", "n", "true", folder, 20_000, 10_000)


async def ends_well(task: ShellTask) -> TaskResult:
    return RESULT


async def nothing() -> int | None:
    return None


def test_content_counts_and_holes_do_not(tmp_path: Path) -> None:
    fill(tmp_path / "full", MB)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(100 * MB)
    assert MB <= folder_bytes(tmp_path, ALL) < 2 * MB


def test_file_of_several_names_counts_once(tmp_path: Path) -> None:
    fill(tmp_path / "one", MB)
    for number in range(10):
        os.link(tmp_path / "one", tmp_path / f"two{number}")
    assert MB <= folder_bytes(tmp_path, ALL) < 2 * MB


def test_names_alone_cost_something(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / str(number)).touch()
    assert folder_bytes(tmp_path, ALL) >= 1000 * 512


@pytest.mark.promise("P11")
def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    fill(outside / "large", 10 * MB)
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "large")
    (inside / "round").symlink_to(inside)
    os.mkfifo(inside / "pipe")
    assert folder_bytes(inside, ALL) < MB
    assert folder_bytes(inside / "folder", ALL) == 0


@pytest.mark.promise("P11")
def test_nothing_is_hidden_by_closing_a_folder(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    fill(tmp_path / "closed" / "large", MB)
    (tmp_path / "closed").chmod(0o300)
    assert folder_bytes(tmp_path, ALL) >= MB


def test_counting_stops_at_what_is_enough(tmp_path: Path) -> None:
    for number in range(20):
        fill(tmp_path / str(number), MB)
    assert 2 * MB < folder_bytes(tmp_path, 2 * MB) <= 4 * MB


def nest(folder: Path, levels: int) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.mark.promise("P11")
def test_folders_beyond_any_depth_are_refused_and_leave_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "deep").mkdir()
    nest(tmp_path / "deep", DEEPEST - 3)
    folder_bytes(tmp_path, ALL)
    (tmp_path / "deeper").mkdir()
    nest(tmp_path / "deeper", 2000)
    with pytest.raises(TooDeep):
        folder_bytes(tmp_path, ALL)
    assert len(os.listdir("/proc/self/fd")) == before
    assert empty(tmp_path, threading.Event()) == {}


async def holding(folder: Path, program: str) -> asyncio.subprocess.Process:
    """A process that holds 3 MB without a name, once it does; it ends with its input."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=folder, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    return process


OPEN = "import os, sys; f = open('x', 'wb'); os.unlink('x'); f.write(b'x' * 3_000_000); f.flush(); "
MAPPED = (
    "import mmap, os, sys; f = open('x', 'w+b'); os.unlink('x'); f.write(b'x' * 3_000_000); f.flush(); "
    "m = mmap.mmap(f.fileno(), 4096); f.close(); "
    "[os.close(n) for n in range(3, 64) if os.path.exists(f'/proc/self/fd/{n}')]; "
)


@pytest.mark.promise("P11")
@pytest.mark.parametrize("program", [OPEN, pytest.param(MAPPED, marks=pytest.mark.needs_root)])
@pytest.mark.parametrize("below", [True, False])
async def test_file_without_a_name_counts_while_somebody_has_it(tmp_path: Path, program: str, below: bool) -> None:
    if program is MAPPED and os.geteuid() != 0:
        pytest.skip("needs root: to others the kernel does not show what is mapped")
    process = await holding(tmp_path, program + "print('held', flush=True); sys.stdin.read()")
    root = os.getpid() if below else process.pid
    try:
        assert unnamed_bytes(root, tmp_path) >= 3_000_000
    finally:
        process.kill()
        await process.wait()
    assert unnamed_bytes(root, tmp_path) < 3_000_000


async def test_result_within_the_quota_is_the_works_own(tmp_path: Path) -> None:
    assert await Quota(1).keep(task_in(tmp_path), ends_well, nothing) is RESULT


async def test_too_much_at_the_end_is_refused_with_the_result(tmp_path: Path) -> None:
    fill(tmp_path / "large", MB + 1)
    with pytest.raises(QuotaExceeded, match="1 MB") as refused:
        await Quota(1).keep(task_in(tmp_path), ends_well, nothing)
    assert (refused.value.code, refused.value.result) == ("WORKDIR_QUOTA_EXCEEDED", RESULT)
    assert await Quota(0).keep(task_in(tmp_path), ends_well, nothing) is RESULT


async def test_work_that_goes_too_far_is_told_to_end_and_its_result_is_kept(tmp_path: Path) -> None:
    cleaned = False

    async def until_told(task: ShellTask) -> TaskResult:
        nonlocal cleaned
        fill(tmp_path / "large", MB + 1)
        assert task.halt is not None
        await task.halt
        cleaned = True
        return replace(RESULT, exit_code=143, stdout="so far")

    async with asyncio.timeout(20):
        with pytest.raises(QuotaExceeded, match="1 MB") as refused:
            await Quota(1).keep(task_in(tmp_path), until_told, nothing)
    assert cleaned
    assert refused.value.result == replace(RESULT, exit_code=None, stdout="so far")


async def test_cancelled_while_it_waits_for_the_end_it_cancels_the_work(tmp_path: Path) -> None:
    told, cleaned = asyncio.Event(), asyncio.Event()

    async def deaf(task: ShellTask) -> TaskResult:
        fill(tmp_path / "large", MB + 1)
        assert task.halt is not None
        await task.halt
        told.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return RESULT

    keeping = asyncio.create_task(Quota(1).keep(task_in(tmp_path), deaf, nothing))
    async with asyncio.timeout(20):
        await told.wait()
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert cleaned.is_set()


async def test_cancelled_it_cancels_the_work_and_waits_for_it(tmp_path: Path) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def endless(task: ShellTask) -> TaskResult:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()
        return RESULT

    keeping = asyncio.create_task(Quota(1).keep(task_in(tmp_path), endless, nothing))
    await begun.wait()
    keeping.cancel()
    await asyncio.sleep(0)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert cleaned.is_set()


async def test_works_own_failure_is_told(tmp_path: Path) -> None:
    async def fails(task: ShellTask) -> TaskResult:
        raise SandboxError("SANDBOX_UNAVAILABLE:host", "no")

    with pytest.raises(SandboxError, match="SANDBOX_UNAVAILABLE"):
        await Quota(1).keep(task_in(tmp_path), fails, nothing)


def test_folder_that_is_a_file_or_gone_holds_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "file", 10)
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)
    assert folder_bytes(tmp_path / "file", ALL) == 0
    assert folder_bytes(tmp_path / "gone", ALL) == 0
