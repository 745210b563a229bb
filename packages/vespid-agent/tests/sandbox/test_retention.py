"""Old folders go, whatever a task has left in them; those in use stay."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from vespid_agent.logs import get_logger
from vespid_agent.sandbox import removal
from vespid_agent.sandbox.removal import empty
from vespid_agent.sandbox.retention import Retention
from vespid_agent.sandbox.workdir import GONE, SLOTS, Workdirs
from vespid_protocol.ids import new_id

_GOING_ON = threading.Event()


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: `nobody` has to get there.
    folder = Path(tempfile.mkdtemp(prefix="vespid-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def aged(folder: Path, hours: float) -> Path:
    when = time.time() - hours * 3600
    os.utime(folder, (when, when))
    return folder


async def sweep(workdirs: Workdirs, hours: int = 24) -> None:
    await Retention(workdirs, hours, get_logger("test")).sweep()


async def test_only_what_nobody_used_for_so_long_goes(root: Path) -> None:
    workdirs = Workdirs(root)
    old, recent, odd = new_id(), new_id(), "not a uuid"
    for run in (old, recent, odd):
        (workdirs.open(run, "n") / "file").write_text("x")
    aged(workdirs.open(old, "n").parent, 25)
    aged(workdirs.open(recent, "n").parent, 23)
    aged(workdirs.open(odd, "n").parent, 25)
    await sweep(workdirs)
    assert sorted(path.name for path in root.iterdir()) == sorted([recent, GONE])
    assert list(workdirs.gone.iterdir()) == []


async def test_what_is_not_a_runs_folder_is_left_alone(root: Path) -> None:
    for name in ("Documents", SLOTS, "~notes"):
        (root / name).mkdir()
        aged(root / name, 1000)
    link = root / new_id()
    link.symlink_to(root / "Documents")
    os.utime(link, (0, 0), follow_symlinks=False)
    (root / new_id()).write_text("a file")
    before = sorted(root.iterdir())
    await sweep(Workdirs(root))
    assert sorted(root.iterdir()) == before


async def test_run_at_work_keeps_its_folder_and_its_end_counts_as_use(root: Path) -> None:
    workdirs, run = Workdirs(root), new_id()
    with workdirs.use(run):
        with workdirs.use(run):
            folder = workdirs.open(run, "n").parent
        aged(folder, 1000)
        await sweep(workdirs)
        assert folder.exists()
    await sweep(workdirs)
    assert folder.exists()
    await sweep(workdirs, hours=0)
    assert not folder.exists()


async def test_use_between_looking_and_throwing_away_saves_it(root: Path) -> None:
    workdirs, run = Workdirs(root), new_id()
    folder = aged(workdirs.open(run, "n").parent, 1000)
    moment = time.time() - 3600
    assert workdirs.unused_since(moment) == [run]
    with workdirs.use(run):
        pass
    workdirs.discard(run, moment)
    assert folder.exists()


async def test_clock_that_was_set_back_delays_and_does_not_forget(root: Path) -> None:
    workdirs = Workdirs(root)
    folder = aged(workdirs.open(new_id(), "n").parent, -1000)
    await sweep(workdirs, hours=0)
    await sweep(workdirs, hours=0)
    assert not folder.exists()


def nested(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def unreadable(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    for path in (folder / "a" / "b", folder / "a", folder):
        path.chmod(0)


def odd_things(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "-rf\n*").write_text("x")
    (folder / os.fsdecode(b"\xff\xfe")).mkdir()
    (folder / "read only").mkdir(mode=0o500)
    (folder / "loop").symlink_to(folder)


def many(folder: Path) -> None:
    for number in range(2500):
        (folder / str(number)).touch()


HOSTILE = [nested, unreadable, odd_things, many]


@pytest.mark.promise("P11")
@pytest.mark.parametrize("make", HOSTILE)
def test_hostile_trees_are_removed(root: Path, make: Callable[[Path], None]) -> None:
    make_at(root, make)
    assert empty(root / "trash", _GOING_ON) == {}
    assert list((root / "trash").iterdir()) == []


@pytest.mark.promise("P11")
@pytest.mark.parametrize("make", HOSTILE)
def test_hostile_trees_are_removed_by_an_ordinary_user(root: Path, make: Callable[[Path], None]) -> None:
    if os.getuid() != 0:
        pytest.skip("the test beside it ran as one already")
    root.chmod(0o777)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgid(65534)
            os.setuid(65534)
            make_at(root, make)
            if empty(root / "trash", _GOING_ON) == {} and list((root / "trash").iterdir()) == []:
                os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def make_at(root: Path, make: Callable[[Path], None]) -> None:
    folder = root / "trash" / "run"
    folder.mkdir(parents=True)
    make(folder)


@pytest.mark.promise("P11")
def test_no_link_is_followed_out_of_the_tree(root: Path) -> None:
    outside = root / "outside"
    outside.mkdir(mode=0o500)
    (outside / "kept").write_text("kept")
    trash = root / "trash"
    (trash / "run" / "inner").mkdir(parents=True)
    for place in (trash, trash / "run", trash / "run" / "inner"):
        (place / "folder").symlink_to(outside)
        (place / "file").symlink_to(outside / "kept")
    assert empty(trash, _GOING_ON) == {}
    assert list(trash.iterdir()) == []
    assert (outside / "kept").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o500


def frozen(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, removal._SET_FLAGS, flags.to_bytes(8, "little"))
    finally:
        os.close(descriptor)


@pytest.mark.promise("P11")
def test_immutable_names_are_removed_where_we_may(root: Path) -> None:
    folder = root / "trash" / "run"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("x")
    try:
        for path in (folder / "inner" / "file", folder / "inner", folder):
            frozen(path, removal._IMMUTABLE)
    except OSError:
        pytest.skip("this file system, or this user, has no immutable names")
    assert empty(root / "trash", _GOING_ON) == {}
    assert list((root / "trash").iterdir()) == []


async def test_what_cannot_be_removed_is_told_once_and_keeps_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdirs = Workdirs(root)
    stuck, other = new_id(), new_id()
    for run in (stuck, other):
        (workdirs.open(run, "n") / run).write_text("x")
    real = removal._unlink

    def unlink(folder: int, name: str) -> None:
        if name == stuck:
            raise PermissionError(1, "Operation not permitted")
        real(folder, name)

    monkeypatch.setattr(removal, "_unlink", unlink)
    retention = Retention(workdirs, 0, get_logger("test"))
    with capture_logs() as said:
        for _ in range(3):
            await retention.sweep()
    told = [line for line in said if line["event"] == "workdir_not_removed"]
    assert len(told) == len({line["path"] for line in told}) == 1
    assert all(line["reason"] for line in told)
    assert not list(root.rglob(other))


async def test_sweep_does_not_hold_up_the_loop(root: Path) -> None:
    workdirs = Workdirs(root)
    folder = workdirs.open(new_id(), "n")
    for number in range(20_000):
        (folder / str(number)).touch()
    longest, last = 0.0, time.monotonic()
    sweeping = asyncio.create_task(sweep(workdirs, hours=0))
    while not sweeping.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await sweeping
    assert list(workdirs.gone.iterdir()) == []
    assert longest < 0.25


async def test_stopped_it_stops_within_a_folder(root: Path) -> None:
    stop = threading.Event()
    stop.set()
    make_at(root, many)
    assert empty(root / "trash", stop) == {}
    assert len(list((root / "trash" / "run").iterdir())) == 2500


async def test_root_that_is_not_there_is_nothing_to_do(root: Path) -> None:
    with capture_logs() as said:
        await sweep(Workdirs(root / "never" / "made"))
    assert said == []
