"""One process per identity: a lock on a file beside the journal that the kernel drops when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# `holder` has the lock for a moment, to see whether it could: a process that starts just then waits for that.
_PATIENCE_S = 1.0
_AGAIN_S = 0.02


class IdentityTaken(Exception):
    """Another process on this machine runs as the same executor."""


class IdentityLock:
    """Held from `take` until `release` or the end of the process, whichever way it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises IdentityTaken, naming the process that has it."""
        # A managed agent has no config file whose folder would be there already.
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + _PATIENCE_S
        while not (taken := _try_lock(descriptor)) and time.monotonic() < until:
            time.sleep(_AGAIN_S)
        if not taken:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise IdentityTaken(
                f"another vespid-agent (pid {holder}) already runs as this executor ({self._path}). "
                "Stop it first, or pair this machine again for a second agent with its own --config."
            )
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock, or None."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(descriptor):
            return None
        text = os.read(descriptor, 32).strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # beyond the pid, so that it can still be read

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
