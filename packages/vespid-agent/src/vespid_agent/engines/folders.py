"""Where the engines keep what is theirs, beside the agent's config: `engines-<executorId>/`, for this user alone.

    codex/           what Codex calls its home: its conversations, and a settings file that is made anew for each turn
    conversations/   which conversation of a program continues which session
    turns/           one folder for each turn that runs, with what its program is given to read
    work/            working directories of turns that come without one
    states.json      how the programs were when they were last looked at

Everything here blocks on the disk: call it from a thread.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vespid_protocol.frames import EngineState

# What was not used for so long is thrown away at the next start.
KEPT_DAYS = 30
# How the names of turns begin, here and in Codex's home.
_TURN = "turn-"
_STATES = "states.json"


class Folders:
    """Made when they are needed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def codex_home(self) -> Path:
        return _made(self.root / "codex")

    def conversations(self) -> Path:
        return _made(self.root / "conversations")

    def turn(self) -> Path:
        """A new one; whoever took it removes it."""
        return Path(tempfile.mkdtemp(prefix=_TURN, dir=_made(self.root / "turns")))

    def workdir(self, owner: str) -> Path:
        """The same for the same owner."""
        folder = _made(self._workdir(owner))
        os.utime(folder)
        return folder

    def drop_workdir(self, owner: str) -> None:
        remove(self._workdir(owner))

    def _workdir(self, owner: str) -> Path:
        return self.root / "work" / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def states(self) -> Sequence[EngineState]:
        """What was kept; nothing where that cannot be read."""
        try:
            return msgspec.json.decode((self.root / _STATES).read_bytes(), type=list[EngineState])
        except (OSError, msgspec.DecodeError):
            return ()

    def keep_states(self, states: Sequence[EngineState]) -> None:
        """Raises OSError."""
        write_private(_made(self.root) / _STATES, msgspec.json.encode(states).decode())

    def sweep(self) -> None:
        """Once, before the first turn: what an earlier process left, and what has been old for long."""
        remove(self.root / "turns")
        for profile in (self.root / "codex").glob(f"{_TURN}*"):
            remove(profile)
        oldest = time.time() - KEPT_DAYS * 86_400
        for kind in ("conversations", "work"):
            folder = self.root / kind
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry.lstat().st_mtime < oldest:
                    remove(entry)


def remove(path: Path) -> None:
    """As far as it can be; a link is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """All of it or nothing, readable by this user alone. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
