"""Limits of memory, processes and CPU by control group, version 1 or 2, whichever the host has and lets us use.

A task's group is made below the agent's own, so whatever limits the agent has hold for its tasks together as well. In
version 2 a group that is divided holds no process itself: where the agent's group was handed to it (`Delegate=` of
systemd) and nobody else lives there, the agent moves into a leaf of it first.

    <the agent's group>/vespid-agent-itself     the agent
                       /vespid-agent/<token>    a task
"""

import asyncio
import contextlib
import errno
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
_ITSELF = "vespid-agent-itself"
# Of a group that systemd has handed on: the first for everyone to read, the other for root (systemd before 251).
_HANDED_ON = ("user.delegate", "trusted.delegate")
# Children that are forked while the agent moves are moved after it.
_MOVES = 10
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

    def __init__(self, bases: dict[str, Path], version: int, obstacle: str | None = None) -> None:
        # Controller → directory below which its groups are made; the same one for all in version 2.
        self._bases = bases
        self._version = version
        # What keeps us from dividing the agent's own group (version 2), and what to do; for people.
        self.obstacle = obstacle

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
        obstacle: str | None = None
        if unified is not None:
            for place in dict.fromkeys([_ours(unified / own.get("", "").lstrip("/")), unified]):
                try:
                    return cls(dict.fromkeys(_divided(place), place / _PARENT), 2, obstacle)
                except OSError as refused:
                    obstacle = obstacle or f"{place}: {refused.strerror}"
        bases = {}
        for controller in _WANTED:
            if controller in mounts and controller in own:
                inside = mounts[controller] / own[controller].lstrip("/")
                base = (inside if inside.is_dir() else mounts[controller]) / _PARENT
                if _can_make(base):
                    bases[controller] = base
        return cls(bases, 1, None if len(bases) == len(_WANTED) else obstacle)

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
            # To kill(2) 0 would mean our own process group.
            process_tree.send(_inside(directory) - {0}, signal.SIGKILL)


def _inside(directory: Path) -> set[int]:
    """Who lives in the group itself; 0 stands for processes of other pid namespaces."""
    return {int(pid) for pid in (directory / "cgroup.procs").read_text().split()}


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


def _ours(here: Path) -> Path:
    """The group to divide: the one we are in, or the one above where we are in a leaf of a group of ours already."""
    in_leaf = here.name == _ITSELF or (_is_marked(here.parent) and not _is_marked(here))
    return here.parent if in_leaf else here


def _divided(place: Path) -> list[str]:
    """The controllers of groups below `place`, switched on for them. Raises OSError that says what to do."""
    offered = (place / "cgroup.controllers").read_text().split()
    usable = [controller for controller in _WANTED if controller in offered]
    if "memory" not in usable:
        raise OSError(errno.ENOENT, "it is given no memory controller; have systemd run the agent with Delegate=yes")
    switch = " ".join(f"+{controller}" for controller in usable)
    try:
        (place / "cgroup.subtree_control").write_text(switch)
    except OSError as refused:
        if refused.errno != errno.EBUSY:
            raise
        _move_aside(place)
        (place / "cgroup.subtree_control").write_text(switch)
    base = place / _PARENT
    base.mkdir(exist_ok=True)
    (base / "cgroup.subtree_control").write_text(switch)
    return usable


def _move_aside(place: Path) -> None:
    """Have the agent, if it is all that lives in a group of its own, live in a leaf of it. Raises OSError, else."""
    if not (_is_marked(place) or _is_outermost(place)):
        raise OSError(errno.EBUSY, "it is not the agent's to divide; have systemd run the agent with Delegate=yes")
    leaf = place / _ITSELF
    for _ in range(_MOVES):
        inside = _inside(place)
        others = inside - {os.getpid(), *process_tree.descendants(os.getpid())}
        if others:
            whose = ", ".join(map(str, sorted(others)))
            raise OSError(errno.EBUSY, f"processes {whose} live in it; have systemd run the agent as a unit of its own")
        if not inside:
            return
        leaf.mkdir(exist_ok=True)
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(str(pid))


def _is_marked(place: Path) -> bool:
    """Whether systemd says that it leaves this group to whoever is in it."""
    if sys.platform != "linux":
        return False
    for name in _HANDED_ON:
        with contextlib.suppress(OSError):
            if os.getxattr(place, name) == b"1":
                return True
    return False


def _is_outermost(place: Path) -> bool:
    """Whether it is the outermost group that we may change: where ours begin, whoever handed them to us."""
    return os.access(place / "cgroup.procs", os.W_OK) and not os.access(place.parent / "cgroup.procs", os.W_OK)


def _can_make(base: Path) -> bool:
    try:
        base.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(base, os.W_OK)
