"""A skill's files beside the work of one call: copied into the working folder, and removed after it.

    <workdir>/.skill-<random>/input.json
    <workdir>/.skill-<random>/skill/…

A copy is what every sandbox can give a task, wherever its files are. The one thing to know: the working folder belongs
to tasks, which may be hostile, and may be at work in it just now. So the copy is made beside it, where no task reaches,
and comes in by being renamed; nothing is ever written through a name inside.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vespid_agent.sandbox.removal import empty
from vespid_agent.sandbox.workdir import is_own_directory
from vespid_agent.skills.manifest import BadSkill

INPUT = "input.json"
FILES = "skill"
# Of all files of a skill.
TOTAL_MAX_BYTES = 64 * 1024 * 1024
ENTRIES_MAX = 5_000
_FOLDER_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Copy:
    # Within the working folder.
    name: str
    path: Path


def make_copy(folder: Path, document: bytes, workdir: Path) -> Copy:
    """`document` is the input. Raises BadSkill, OSError."""
    name = f".skill-{secrets.token_hex(8)}"
    # The folder that holds the working folder is the agent's alone.
    stage = workdir.parent / f"~{name}"
    stage.mkdir(mode=0o700)
    try:
        _copy_tree(folder, stage / FILES)
        _write(stage / INPUT, document)
        # Whoever runs it, perhaps another user, is to read it.
        stage.chmod(_FOLDER_MODE)
        os.rename(stage, workdir / name)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    return Copy(name, workdir / name)


def remove_copy(copy: Copy) -> None:
    """Whatever the task made of it. Raises OSError for what stays."""
    with contextlib.suppress(FileNotFoundError):
        if not is_own_directory(os.lstat(copy.path)):
            raise OSError(f"{copy.path} is not a folder any more")
        stayed = empty(copy.path, threading.Event())
        for why in stayed.values():
            raise why
        os.rmdir(copy.path)


def _copy_tree(source: Path, target: Path) -> None:
    root = source.resolve(strict=True)
    size = 0
    target.mkdir(mode=_FOLDER_MODE)
    for number, path in enumerate(_entries(root), 1):
        there = target / path.relative_to(root)
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            _link(root, path, there)
        elif stat.S_ISDIR(status.st_mode):
            there.mkdir(mode=_FOLDER_MODE)
        elif stat.S_ISREG(status.st_mode):
            size += status.st_size
            if size > TOTAL_MAX_BYTES:
                raise BadSkill(f"its files have more than {TOTAL_MAX_BYTES} bytes")
            shutil.copyfile(path, there, follow_symlinks=False)
            there.chmod(0o555 if status.st_mode & stat.S_IXUSR else 0o444)
        else:
            raise BadSkill(f"{path.relative_to(root)} is neither a file nor a folder")
        if number > ENTRIES_MAX:
            raise BadSkill(f"it has more than {ENTRIES_MAX} files")


def _entries(root: Path) -> Iterator[Path]:
    """All below, folders before what is in them; no link is followed."""
    for here, folders, names in os.walk(root):
        for name in (*folders, *names):
            yield Path(here, name)


def _link(root: Path, path: Path, there: Path) -> None:
    """A link that stays within is one in the copy too."""
    target = os.readlink(path)
    if os.path.isabs(target) or not path.resolve().is_relative_to(root):
        raise BadSkill(f"{path.relative_to(root)} is a link that leads out of the skill's folder")
    os.symlink(target, there)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o444)
