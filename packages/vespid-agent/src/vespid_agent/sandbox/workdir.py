"""Where tasks keep their files: `<root>/<run>/<node>`, ours to name and never reached through a link.

The two upper levels belong to the agent alone, so no task can put a link in the way of another.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

from vespid_agent.sandbox.task import SandboxError

# Beside the folders of runs, for what is prepared ahead of its task; no run has this name.
SLOTS = "~slots"

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Workdirs:
    """The tree below VESPID_AGENT_WORKDIR_ROOT."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def open(self, run_id: str, node_id: str) -> Path:
        """The directory of that node in that run, made when it is not there. Raises `SandboxError`."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            run = self.root / directory_name(run_id)
            node = run / directory_name(node_id)
            for path in (run, node):
                with contextlib.suppress(FileExistsError):
                    path.mkdir(mode=0o700)
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    raise SandboxError("WORKDIR_UNSAFE", f"{path} is not a directory; remove it")
        except OSError as refused:
            message = f"cannot make a working directory below {self.root}: {refused.strerror}"
            raise SandboxError("WORKDIR_UNAVAILABLE", message, retryable=True) from refused
        return node

    def remove(self, run_id: str) -> None:
        """All files of a run; links are removed, never followed. Harmless when there are none."""
        run = self.root / directory_name(run_id)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(os.lstat(run).st_mode):
                run.unlink()
            else:
                shutil.rmtree(run)


def directory_name(name: str) -> str:
    """The id itself where it is a plain name; else a digest of it, marked so that it cannot equal a plain one."""
    if _SAFE_NAME.fullmatch(name):
        return name
    return "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]
