"""The folder that keeps a local installation's data, and the lock that says whose it is at the moment."""

import asyncio
import fcntl
import os
from pathlib import Path

from vespid.local.account import Account, give_to, may_execute
from vespid.service import StartRefused

ROOT_FOLDER = Path("/var/lib/vespid/server")


class FolderInUse(StartRefused):
    """Another process of ours lives on this data folder."""


class FolderClosed(StartRefused):
    """The account that the servers run as cannot get into the data folder."""


def default_folder() -> Path:
    """`~/.vespid/server`, and for root a place that an unprivileged account can get into."""
    return ROOT_FOLDER if os.geteuid() == 0 else Path.home() / ".vespid" / "server"


class DataFolder:
    """`postgres/` data, `run/` sockets, `log/`, `keys/` secrets made at the first start, `lock`."""

    def __init__(self, path: Path, account: Account | None) -> None:
        self.path = path.expanduser().absolute()
        self.account = account
        self._lock: int | None = None

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    async def start(self) -> None:
        """Make the folder and take its lock. Raises FolderInUse, FolderClosed."""
        if self._lock is not None:
            return
        await asyncio.to_thread(self._prepare)

    async def stop(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)

    def _prepare(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise FolderClosed(f"{self.path} cannot be made: {error.strerror}") from error
        if self.account is not None and not may_execute(self.path, self.account):
            raise FolderClosed(
                f"{self.path} cannot be entered by uid {self.account.uid}, as which the database runs under root: "
                f"choose a data folder outside of closed folders such as /root"
            )
        self._take_lock()
        for place in (self.run, self.log):
            give_to(place, self.account)
        # Ours alone: the servers have no business with the keys.
        give_to(self.keys, None)

    def _take_lock(self) -> None:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise FolderInUse(
                f"another vespid (process {holder}) is running on {self.path}: stop it, or choose another data folder"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock
