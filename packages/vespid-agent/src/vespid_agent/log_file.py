"""The agent's log on disk: JSON lines beside its config, the newest file first replaced by a new one when it is full.

    log-<executorId>.jsonl   …jsonl.1   …jsonl.2   …jsonl.3        the higher, the older

The one thing to know: it is bounded, and never in the way. What a full or broken disk does not take is left out, and
counted in the first line that it takes again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

# Full files that are kept beside the newest.
KEPT = 3


class LogFile:
    """Of the one process that holds the identity. `write` from any thread; the file is opened at the first line."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """`max_bytes`: of all files together."""
        self._path = path
        self._max_bytes = max(max_bytes // (KEPT + 1), 1)
        self._descriptor: int | None = None
        self._size = 0
        self._lost = 0
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """One line, without its end. Never raises for a disk that takes nothing."""
        with self._lock:
            try:
                if self._lost:
                    self._append(msgspec.json.encode({"event": "log_lines_lost", "count": self._lost}))
                    self._lost = 0
                self._append(line.encode("utf-8", "replace"))
            except OSError:
                self._lost += 1

    def close(self) -> None:
        """Harmless to repeat; a later line opens it again."""
        with self._lock:
            self._close()

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            self._open()
        if self._size and self._size + len(line) >= self._max_bytes:
            self._rotate()
        assert self._descriptor is not None
        self._size += os.write(self._descriptor, line + b"\n")

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self._path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self._close()
        # First the one that can fail: on Windows a file that somebody reads at this moment cannot be renamed. Then
        # nothing else has moved, and the next line tries again.
        full = self._path.with_name(f"{self._path.name}.0")
        os.replace(self._path, full)
        names = [full, *paths(self._path)[1:]]
        for newer, older in reversed(list(pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)
        self._open()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def paths(newest: Path) -> list[Path]:
    """All that there may be, the newest first."""
    return [newest, *(newest.with_name(f"{newest.name}.{number}") for number in range(1, KEPT + 1))]


def lines(newest: Path) -> Iterator[bytes]:
    """Every line of every file, the oldest first; half a line at the end is left out."""
    for path in reversed(paths(newest)):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
