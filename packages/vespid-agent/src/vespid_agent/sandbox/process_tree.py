"""Processes as /proc shows them: who descends from whom, when one began, which carry a task's token."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator

# The variable that every process of a task inherits; its value names the task.
TOKEN_VARIABLE = "VESPID_TASK_TOKEN"  # noqa: S105 - a name, not a secret


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none. Tells a reused pid apart."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def is_alive(pid: int) -> bool:
    """False for a zombie: it runs nothing, it only waits to be counted."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def _stat_fields(pid: int) -> list[str]:
    """Everything after the command name, which may itself hold spaces and parentheses."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def descendants(root: int) -> list[int]:
    """All processes below `root`, without it, parents before children."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        fields = _stat_fields(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    rows = [root]
    while rows:
        below = children.get(rows.pop(), [])
        found += below
        rows += below
    return found


def with_token(token: str) -> list[int]:
    """Living processes that have the token in the environment they were started with."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found = []
    for pid in _all_pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                carries = wanted in file.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone, or another user's: then it is none of ours
        if carries and pid != os.getpid() and is_alive(pid):
            found.append(pid)
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """A process that is gone or no longer ours to signal is passed over: the caller looks again who is left."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
