"""How much a task may keep: added up whatever it does to hide it, and ended when it is too much."""

import asyncio
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from vespid_agent.sandbox.quota import DEEPEST, Quota, QuotaExceeded, TooDeep, folder_bytes, unnamed_bytes
from vespid_agent.sandbox.removal import empty
from vespid_agent.sandbox.task import SandboxError, TaskResult

MB = 1024 * 1024
ALL = 1 << 60
RESULT = TaskResult(0, False, "", "", False, False, 1)


def fill(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)


async def ends_well() -> TaskResult:
    return RESULT


def nothing() -> int | None:
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


@pytest.mark.promise("P11")
async def test_open_file_without_a_name_counts(tmp_path: Path) -> None:
    script = f"exec 5>{tmp_path}/x; rm {tmp_path}/x; head -c 3000000 /dev/zero >&5; echo; read -r _"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stdin=pipe, stdout=pipe)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        assert unnamed_bytes(os.getpid(), tmp_path) >= 3_000_000
    finally:
        process.kill()
        await process.wait()
    assert unnamed_bytes(os.getpid(), tmp_path) < 3_000_000


async def test_result_within_the_quota_is_the_works_own(tmp_path: Path) -> None:
    assert await Quota(1).keep(tmp_path, ends_well(), nothing) is RESULT


async def test_too_much_at_the_end_is_refused_with_the_result(tmp_path: Path) -> None:
    fill(tmp_path / "large", MB + 1)
    with pytest.raises(QuotaExceeded, match="1 MB") as refused:
        await Quota(1).keep(tmp_path, ends_well(), nothing)
    assert (refused.value.code, refused.value.result) == ("WORKDIR_QUOTA_EXCEEDED", RESULT)
    assert await Quota(0).keep(tmp_path, ends_well(), nothing) is RESULT


async def test_work_that_goes_too_far_has_cleaned_up_when_it_is_refused(tmp_path: Path) -> None:
    cleaned = False

    async def endless() -> TaskResult:
        nonlocal cleaned
        fill(tmp_path / "large", MB + 1)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned = True
        return RESULT

    begun = time.monotonic()
    with pytest.raises(QuotaExceeded) as refused:
        await Quota(1).keep(tmp_path, endless(), nothing)
    assert cleaned
    assert refused.value.result is None
    assert time.monotonic() - begun < 5


async def test_cancelled_it_cancels_the_work_and_waits_for_it(tmp_path: Path) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def endless() -> TaskResult:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()
        return RESULT

    keeping = asyncio.create_task(Quota(1).keep(tmp_path, endless(), nothing))
    await begun.wait()
    keeping.cancel()
    await asyncio.sleep(0)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert cleaned.is_set()


async def test_works_own_failure_is_told(tmp_path: Path) -> None:
    async def fails() -> TaskResult:
        raise SandboxError("SANDBOX_UNAVAILABLE:host", "no")

    with pytest.raises(SandboxError, match="SANDBOX_UNAVAILABLE"):
        await Quota(1).keep(tmp_path, fails(), nothing)


def test_folder_that_is_a_file_or_gone_holds_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "file", 10)
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)
    assert folder_bytes(tmp_path / "file", ALL) == 0
    assert folder_bytes(tmp_path / "gone", ALL) == 0
