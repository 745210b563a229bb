"""How much a task may keep in its folder, looked at while it runs and once when it has ended.

No single file can grow beyond it (`RLIMIT_FSIZE`); that all of them together do not is found out by adding them up, the
less often the longer that takes. A task that has too much is ended. What it holds open without a name counts too, where
its processes are ours to see.
"""

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from vespid_agent.sandbox import process_tree
from vespid_agent.sandbox.ending import to_the_end
from vespid_agent.sandbox.folder import disk_bytes, open_folder, works_by_descriptor
from vespid_agent.sandbox.task import QuotaExceeded, ShellTask, TaskResult

# Each level of folders takes a descriptor while it is added up.
DEEPEST = 128
# What a name costs that has no content: no folder can be filled with empty files for nothing.
_LEAST_BYTES = 512
# Where /proc shows what a process holds: open files, and files that it has mapped (to root only).
_HELD = ("fd", "map_files")
_FIRST_S = 0.5
# Of the time that passes, at most one part in so many is spent adding up a folder.
_SPARING = 10
_THREADS = 2
_MB = 1024 * 1024


Run = Callable[[ShellTask], Coroutine[Any, Any, TaskResult]]
Root = Callable[[], Awaitable[int | None]]


class Quota:
    """For all tasks of an agent."""

    def __init__(self, megabytes: int) -> None:
        """0: no limit."""
        self._megabytes = megabytes
        self._limit = megabytes * _MB
        # Threads of its own: a large folder keeps no other work waiting.
        self._threads = ThreadPoolExecutor(_THREADS, "workdir-quota")

    async def keep(self, task: ShellTask, run: Run, root: Root) -> TaskResult:
        """The result of running the task. Raises QuotaExceeded; then, and when cancelled, it has ended and cleaned up.

        `root`: the process that is, or is above, all of the task's, as far as this machine can see one.
        """
        if self._limit == 0:
            return await run(task)
        halt = asyncio.get_running_loop().create_future()
        running = asyncio.ensure_future(run(replace(task, halt=halt)))
        pause = _FIRST_S
        excess: str | None = None
        try:
            while not (await asyncio.wait([running], timeout=pause))[0]:
                begun = time.monotonic()
                excess = await self._excess(task.workdir, await root())
                if excess is not None:
                    halt.set_result(None)
                    await asyncio.wait([running])
                pause = max(_FIRST_S, (time.monotonic() - begun) * _SPARING)
        except BaseException:
            await to_the_end(_ended(running))
            raise
        result = running.result()
        if excess is not None:
            # Its exit status is of our signal and tells nothing.
            raise QuotaExceeded(excess, replace(result, exit_code=None))
        excess = await self._excess(task.workdir, None)
        if excess is not None:
            raise QuotaExceeded(excess, result)
        return result

    async def _excess(self, folder: Path, root: int | None) -> str | None:
        """What is wrong with the folder, for people; None when nothing is."""
        loop = asyncio.get_running_loop()
        try:
            used = await loop.run_in_executor(self._threads, _used, folder, root, self._limit)
        except TooDeep as deep:
            return str(deep)
        if used <= self._limit:
            return None
        return f"the task's folder holds more than the {self._megabytes} MB that this agent allows"


class TooDeep(Exception):
    """Folders within folders, more than anything but malice nests."""


def folder_bytes(folder: Path, enough: int) -> int:
    """What is on the disk below `folder`; the counting stops above `enough`. Raises TooDeep.

    What cannot be looked at, most often because it has just gone, does not count.
    """
    if not works_by_descriptor():
        return _bytes_by_name(folder, enough)
    total = 0
    counted: set[tuple[int, int]] = set()
    # The way down to where we are: of each folder its descriptor, and the names of folders still to go into.
    way: list[tuple[int, list[str]]] = []
    try:
        with contextlib.suppress(OSError):
            way.append((open_folder(folder), ["."]))
        while way and total <= enough:
            parent, names = way[-1]
            if not names:
                os.close(way.pop()[0])
                continue
            if len(way) > DEEPEST:
                raise TooDeep(f"the task's folder holds folders nested more than {DEEPEST} deep")
            with contextlib.suppress(OSError):
                here = open_folder(names.pop(), parent)
                below: list[str] = []
                way.append((here, below))
                with os.scandir(here) as entries:
                    for entry in entries:
                        total += _counted(entry, counted, below)
                        if total > enough:
                            break
        return total
    finally:
        for descriptor, _ in way:
            os.close(descriptor)


def _counted(entry: "os.DirEntry[str]", counted: set[tuple[int, int]], below: list[str]) -> int:
    """Bytes of one entry; its name goes to `below` when it is a folder."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        below.append(entry.name)
    elif status.st_nlink > 1:
        key = (status.st_dev, status.st_ino)
        if key in counted:
            return _LEAST_BYTES
        counted.add(key)
    return max(disk_bytes(status), _LEAST_BYTES)


def _bytes_by_name(folder: Path, enough: int) -> int:
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += max(os.lstat(os.path.join(here, name)).st_size, _LEAST_BYTES)
        if total > enough:
            break
    return total


def unnamed_bytes(root: int, folder: Path) -> int:
    """What `root` and processes below it hold, open or in their memory, on the folder's disk without a name."""
    try:
        device = os.lstat(folder).st_dev
    except OSError:
        return 0
    sizes: dict[int, int] = {}
    for pid in (root, *process_tree.descendants(root)):
        for held in _HELD:
            with contextlib.suppress(OSError):
                for name in os.listdir(f"/proc/{pid}/{held}"):
                    with contextlib.suppress(OSError):
                        status = os.stat(f"/proc/{pid}/{held}/{name}")
                        if status.st_nlink == 0 and status.st_dev == device and stat.S_ISREG(status.st_mode):
                            sizes[status.st_ino] = disk_bytes(status)
    return sum(sizes.values())


def _used(folder: Path, root: int | None, enough: int) -> int:
    return folder_bytes(folder, enough) + (unnamed_bytes(root, folder) if root else 0)


async def _ended(task: "asyncio.Future[TaskResult]") -> None:
    """It is cancelled, and has cleaned up. What went wrong in that is worse than why it was ended, and raised."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
