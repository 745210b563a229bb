"""Reading the agent's log files: the last lines, those of one request, and what comes."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from vespid_agent import log_file

# How soon a new line is seen.
LOOK_S = 0.25
# What every line has, told ahead of the rest.
_HEAD = ("timestamp", "level", "duty", "event")

Wanted = Callable[[bytes], bool]


def wanted(request_id: str | None) -> Wanted:
    """The lines of that request, or of all of a run where the id is that of one."""
    if request_id is None:
        return lambda line: True

    def is_of_it(line: bytes) -> bool:
        found = _fields(line).get("request_id")
        return isinstance(found, str) and (found == request_id or found.startswith(f"{request_id}:"))

    return is_of_it


def read(
    newest: Path, count: int, wants: Wanted, *, follow: bool = False, pause: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """At most `count` lines of those there are, the oldest first; then, to `follow`, what comes, for ever.

    The file is opened for each look alone, so that the agent can rename it.
    """
    reader = _Reader(newest)
    reader.skip()
    yield from deque((line for line in log_file.lines(newest) if wants(line)), maxlen=count)
    while follow:
        found = False
        for line in reader.new_lines():
            found = True
            if wants(line):
                yield line
        if not found:
            pause(LOOK_S)


class _Reader:
    """Where we are in which file."""

    def __init__(self, newest: Path) -> None:
        self._newest = newest
        self._inode: int | None = None
        self._at = 0

    def skip(self) -> None:
        """Everything that is there now."""
        try:
            found = self._newest.stat()
        except FileNotFoundError:
            return
        self._inode, self._at = found.st_ino, found.st_size

    def new_lines(self) -> Iterator[bytes]:
        """Of the file that we are in; once it is read to its end and a newer one is there, we are in that."""
        files = self._files()
        if not files:
            return
        inodes = [inode for inode, _ in files]
        if self._inode not in inodes:  # the first there is, or ours was rotated away altogether
            self._inode, self._at = inodes[0], 0
        place = inodes.index(self._inode)
        try:
            file = files[place][1].open("rb")
        except FileNotFoundError:
            return
        with file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                return  # it was rotated just now: the next look finds it
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                yield line
        if place + 1 < len(files):
            self._inode, self._at = inodes[place + 1], 0

    def _files(self) -> list[tuple[int, Path]]:
        """Each with its inode, the oldest first."""
        found = []
        for path in reversed(log_file.paths(self._newest)):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_ino, path))
        return found


def shown(line: bytes) -> str:
    """For people. Only printable characters: what others named may not speak to the terminal."""
    fields = _fields(line)
    if not fields:
        return _printable(line.decode("utf-8", "replace").rstrip("\n"))
    when = str(fields.get("timestamp", ""))[:19].replace("T", " ")
    level, duty = str(fields.get("level", "")), str(fields.get("duty", ""))
    told = " ".join(f"{key}={_value(value)}" for key, value in fields.items() if key not in _HEAD)
    return _printable(f"{when} {level:<7} {duty:<5} {fields.get('event', '')} {told}".rstrip())


def _value(value: object) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else f'"{value}"'
    return msgspec.json.encode(value).decode()


def _fields(line: bytes) -> Mapping[str, object]:
    """Empty where it is not a line of ours."""
    try:
        return msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError:
        return {}


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
