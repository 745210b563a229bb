"""Reading what a running agent tells: who is there, whether it lives, and what that means for a script.

The lock says whether a process is there, the file what it does; a file that is old, or of an earlier process, is of one
that hangs. Whoever else can write the folder could put anything there: only a regular file of ours (or of root) that
nobody else may write is believed, and only so much of it is read.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec

from vespid_agent import files
from vespid_agent.clock import epoch_ms
from vespid_agent.lock import holder
from vespid_agent.status.state import MAX_BYTES, STALE_MS, State

# A link may be away for so long without anybody having to look: reconnecting takes 0..5 s.
LINK_PATIENCE_MS = 10_000


class Verdict(Enum):
    """Of one agent, at one moment."""

    RUNNING = "running"
    STARTING = "starting"
    # It runs, and has had no link for a while.
    UNLINKED = "unlinked"
    # It is there, and has told nothing for a while.
    HANGS = "hangs"
    STOPPED = "stopped"


class Unreadable(Exception):
    """The file is not one that a running agent of ours would have written; the message says why."""


@dataclass(frozen=True)
class Reading:
    verdict: Verdict
    # Of the process that holds the identity; None: there is none. -1: it cannot be told.
    pid: int | None
    # As told last, by an earlier process perhaps.
    state: State | None
    # What is wrong, for people.
    problem: str | None = None


def read(config_file: Path, executor_id: str) -> Reading:
    """How that agent stands now. Blocks on the disk for a moment."""
    lock = files.lock_path(config_file, executor_id)
    path = files.status_path(config_file, executor_id)
    pid = holder(lock)
    state: State | None = None
    problem: str | None = None
    try:
        state = _load(path)
    except Unreadable as error:
        problem = f"{path} is not used: {error}"
    if pid is None:
        return Reading(Verdict.STOPPED, None, state, problem)
    now = epoch_ms()
    told_at = state.at if state is not None and pid in (state.pid, -1) else None
    since = told_at or int(lock.stat().st_mtime * 1000)
    if now - since > STALE_MS:
        waited = f"it has told nothing for {(now - since) // 1000} s"
        return Reading(Verdict.HANGS, pid, state, problem or f"{waited}: it hangs, is stopped, or cannot write {path}")
    if told_at is None or state is None or state.phase == "starting":
        return Reading(Verdict.STARTING, pid, state if told_at else None, problem)
    link = state.link
    if link is not None and not link.up and now - link.since > LINK_PATIENCE_MS:
        return Reading(Verdict.UNLINKED, pid, state, link.trouble or "the gateway does not answer")
    return Reading(Verdict.RUNNING, pid, state, problem)


def _load(path: Path) -> State | None:
    """None where there is no such file. Raises Unreadable."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    with os.fdopen(descriptor, "rb") as file:
        _check_ours(os.fstat(descriptor))
        content = file.read(MAX_BYTES)
    try:
        return msgspec.json.decode(content, type=State)
    except msgspec.DecodeError as error:
        raise Unreadable(f"it is not what an agent writes ({error})") from None


def _check_ours(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("it is not a file")
    if sys.platform == "win32":
        return  # no modes there: the folder of the user is closed to other users
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise Unreadable("another user wrote it")
    if status.st_mode & 0o022:
        raise Unreadable("others can write it")
