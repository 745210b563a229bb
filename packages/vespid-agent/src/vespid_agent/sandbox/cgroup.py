"""Limits of memory, processes and CPU by control group, version 1 or 2, whichever the host has and lets us use.

A task's group is made below the agent's own, so whatever limits the agent has hold for its tasks together as well.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from vespid_agent.sandbox import process_tree
from vespid_agent.sandbox.limits import Limits

_PARENT = "vespid-agent"
_CPU_PERIOD_US = 100_000
# After SIGKILL a process can only be held up by the kernel.
_KILL_PATIENCE_S = 5.0
_KILL_ROUND_S = 0.005
_WANTED = ("memory", "pids", "cpu")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One task's group: a directory per controller (version 1) or one (version 2)."""

    directories: tuple[Path, ...]

    @property
    def procs(self) -> tuple[Path, ...]:
        """The files by which a process of one thread joins.

        To move a whole process the kernel waits until no processor is amid a fork, 5 to 15 ms. Version 1 can move the
        one thread alone, without that wait.
        """
        return tuple(
            directory / ("tasks" if (directory / "tasks").exists() else "cgroup.procs")
            for directory in self.directories
        )

    async def remove(self) -> None:
        """Kill what is still inside and remove the directories. Harmless to repeat. Raises OSError where it cannot."""
        give_up = time.monotonic() + _KILL_PATIENCE_S
        for directory in self.directories:
            while directory.exists():
                _kill(directory)
                try:
                    directory.rmdir()
                except OSError:
                    # Busy: what was killed takes a moment to be gone, or was forking.
                    if time.monotonic() > give_up:
                        raise
                    await asyncio.sleep(_KILL_ROUND_S)


class Cgroups:
    """Where groups can be made. `detect` tries it, because permission and delegation cannot be told from looking."""

    def __init__(self, bases: dict[str, Path], version: int) -> None:
        # Controller → directory below which its groups are made; the same one for all in version 2.
        self._bases = bases
        self._version = version

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(self._bases)

    @property
    def version(self) -> int:
        return self._version

    @classmethod
    def detect(cls, proc: Path = Path("/proc/self")) -> "Cgroups":
        own = _own_groups((proc / "cgroup").read_text())
        mounts = _mounts((proc / "mountinfo").read_text())
        unified = mounts.get("")
        if unified is not None:
            for place in dict.fromkeys([unified / own.get("", "").lstrip("/"), unified]):
                usable = _delegated(place)
                if "memory" in usable:
                    return cls(dict.fromkeys(usable, place / _PARENT), version=2)
        bases = {}
        for controller in _WANTED:
            if controller in mounts and controller in own:
                inside = mounts[controller] / own[controller].lstrip("/")
                base = (inside if inside.is_dir() else mounts[controller]) / _PARENT
                if _can_make(base):
                    bases[controller] = base
        return cls(bases, version=1)

    def create(self, name: str, limits: Limits) -> Cgroup:
        """Raises OSError; nothing is left then."""
        made = Cgroup(tuple(base / name for base in dict.fromkeys(self._bases.values())))
        try:
            for directory in made.directories:
                directory.mkdir()
            for controller, base in self._bases.items():
                for file, value, needed in _settings(controller, self._version, limits):
                    _write(base / name / file, value, needed=needed)
        except OSError:
            for directory in made.directories:
                with contextlib.suppress(FileNotFoundError):
                    directory.rmdir()
            raise
        return made

    def existing(self, name: str) -> Cgroup:
        """The group of that name as an earlier agent may have left it."""
        return Cgroup(tuple(base / name for base in dict.fromkeys(self._bases.values())))


def _kill(directory: Path) -> None:
    """All that is inside: at once where the kernel does it (version 2, since 5.14), so that no fork slips through."""
    if sys.platform != "linux":
        return
    switch = directory / "cgroup.kill"
    with contextlib.suppress(FileNotFoundError):
        if switch.exists():
            switch.write_text("1")
        else:
            # 0 stands for a process of another pid namespace; to kill(2) it would mean our own process group.
            inside = {int(pid) for pid in (directory / "cgroup.procs").read_text().split()} - {0}
            process_tree.send(inside, signal.SIGKILL)


def _settings(controller: str, version: int, limits: Limits) -> list[tuple[str, str, bool]]:
    """(file, value, whether the limit fails without it)."""
    memory = str(limits.memory_mb * 1024 * 1024)
    quota = str(max(1000, int(limits.cpus * _CPU_PERIOD_US)))
    table = {
        ("memory", 1): [
            ("memory.limit_in_bytes", memory, True),
            ("memory.memsw.limit_in_bytes", memory, False),  # not there where swap is not accounted
        ],
        ("pids", 1): [("pids.max", str(limits.pids), True)],
        ("cpu", 1): [("cpu.cfs_period_us", str(_CPU_PERIOD_US), True), ("cpu.cfs_quota_us", quota, True)],
        ("memory", 2): [
            ("memory.max", memory, True),
            ("memory.swap.max", "0", False),
            ("memory.oom.group", "1", False),
        ],
        ("pids", 2): [("pids.max", str(limits.pids), True)],
        ("cpu", 2): [("cpu.max", f"{quota} {_CPU_PERIOD_US}", True)],
    }
    return table[controller, version]


def _write(path: Path, value: str, *, needed: bool) -> None:
    try:
        path.write_text(value)
    except OSError:
        if needed:
            raise


def _own_groups(text: str) -> dict[str, str]:
    """Controller → path of our own group; version 2 under the empty name."""
    own: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    return own


def _mounts(mountinfo: str) -> dict[str, Path]:
    """Controller → where its hierarchy is mounted; version 2 under the empty name."""
    mounts: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        where = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split(" ")[4]))
        if kind == "cgroup2":
            mounts.setdefault("", where)
        elif kind == "cgroup":
            for option in options.split(","):
                mounts.setdefault(option, where)
    return mounts


def _delegated(place: Path) -> list[str]:
    """The controllers that groups below `place` can have, switched on for them; empty when none can be made there."""
    base = place / _PARENT
    try:
        offered = (place / "cgroup.controllers").read_text().split()
        usable = [controller for controller in _WANTED if controller in offered]
        switch = " ".join(f"+{controller}" for controller in usable)
        # Refused (EBUSY) where processes live in the group itself: then it is not ours to divide.
        (place / "cgroup.subtree_control").write_text(switch)
        base.mkdir(exist_ok=True)
        (base / "cgroup.subtree_control").write_text(switch)
    except OSError:
        return []
    return usable


def _can_make(base: Path) -> bool:
    try:
        base.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(base, os.W_OK)
