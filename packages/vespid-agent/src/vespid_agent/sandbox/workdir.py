"""Where tasks keep their files: `<root>/<run>/<node>` or `<root>/<run>/~run`, never reached through a link.

The two upper levels belong to the agent alone, so no task can put a link in the way of another. A run's folder bears
the time of its last use, by which it is thrown away one day.
"""

import contextlib
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vespid_agent.sandbox.task import SandboxError
from vespid_protocol.ids import is_uuid

# Beside the folders of runs, for what is prepared ahead of its task; no run has this name.
SLOTS = "~slots"
# Likewise, for what is about to be removed.
GONE = "~gone"

# Within a run, for its nodes that share one; no node has this name.
SHARED = "~run"

# There `Build` and `build` are one folder, and a few names are no folder at all.
_FOLDS_CASE = sys.platform in ("darwin", "win32")
_DEVICE = re.compile(r"con|prn|aux|nul|com\d|lpt\d")

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_DIGEST = re.compile(r"~[0-9a-f]{40}")


class Workdirs:
    """The tree below VESPID_AGENT_WORKDIR_ROOT. `use` and `discard` are called on the loop, the rest anywhere."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        # How many tasks are at work in a run's folder.
        self._used: Counter[str] = Counter()

    @property
    def gone(self) -> Path:
        return self.root / GONE

    @contextlib.contextmanager
    def use(self, run_id: str) -> Iterator[None]:
        """Meanwhile the run's folder is not thrown away; its last use is the end of this."""
        name = run_directory(run_id)
        self._used[name] += 1
        try:
            yield
        finally:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]
            with contextlib.suppress(OSError):  # nothing was made
                os.utime(self.root / name, follow_symlinks=False)

    def open(self, run_id: str, node_id: str | None) -> Path:
        """The directory of that node (None: of all that share one) in that run, made when it is not there.

        Raises `SandboxError`.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            run = self.root / run_directory(run_id)
            node = run / (SHARED if node_id is None else directory_name(node_id))
            for path in (run, node):
                with contextlib.suppress(FileExistsError):
                    path.mkdir(mode=0o700)
                if not is_own_directory(os.lstat(path)):
                    raise SandboxError("WORKDIR_UNSAFE", f"{path} is not a directory; remove it")
        except OSError as refused:
            message = f"cannot make a working directory below {self.root}: {refused.strerror}"
            raise SandboxError("WORKDIR_UNAVAILABLE", message, retryable=True) from refused
        return node

    def unused_since(self, moment: float) -> list[str]:
        """Folders of runs whose last use was before that moment (epoch seconds). Raises OSError."""
        try:
            with os.scandir(self.root) as entries:
                return [entry.name for entry in entries if _is_ours(entry.name) and self._is_old(entry.name, moment)]
        except FileNotFoundError:
            return []

    def discard(self, name: str, moment: float) -> None:
        """Put one of `unused_since` away to be removed, unless it has been used meanwhile. Raises OSError."""
        if name not in self._used and self._is_old(name, moment):
            with contextlib.suppress(FileExistsError):
                self.gone.mkdir(mode=0o700)
            os.rename(self.root / name, self.gone / f"{name}.{secrets.token_hex(8)}")

    def _is_old(self, name: str, moment: float) -> bool:
        path = self.root / name
        try:
            status = os.lstat(path)
            if status.st_mtime > time.time():  # a clock was set back: its age is counted from now on
                os.utime(path, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) and status.st_mtime <= moment


def _is_ours(name: str) -> bool:
    """The root may be a folder with other things in it: only what bears a name of ours is ever removed."""
    return is_uuid(name) or _DIGEST.fullmatch(name) is not None


def run_directory(run_id: str) -> str:
    """The run's id, which is a UUID; else a digest, so that a folder of ours is known by its name."""
    return run_id if is_uuid(run_id) else _digest(run_id)


def is_own_directory(status: os.stat_result) -> bool:
    """Neither a link nor a junction, which is a directory to Windows' stat."""
    reparses = getattr(status, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_REPARSE_POINT
    return stat.S_ISDIR(status.st_mode) and not reparses


def directory_name(name: str, *, folds_case: bool = _FOLDS_CASE) -> str:
    """The id itself where it is a plain name; else a digest of it, marked so that it cannot equal a plain one."""
    plain = _SAFE_NAME.fullmatch(name) and not (folds_case and (name != name.lower() or _DEVICE.fullmatch(name)))
    return name if plain else _digest(name)


def _digest(name: str) -> str:
    return "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]
