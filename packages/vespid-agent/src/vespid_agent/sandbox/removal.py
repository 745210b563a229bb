"""Removing what tasks have left, which may be anything: no link is followed, no depth is too deep.

Folders are brought up as they are found: each moves to the top, so that none is ever more than one step away, and no
path and no stack grows with what a task has nested.
"""

import contextlib
import os
import secrets
import shutil
import stat
import sys
import threading
from itertools import islice
from pathlib import Path

from vespid_agent.sandbox.folder import open_folder, works_by_descriptor

_AT_ONCE = 1000
# Linux: the flags of a file (`chattr`), of which these two keep even root from removing it.
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20


def empty(trash: Path, stop: threading.Event) -> dict[str, OSError]:
    """Remove all that is in `trash`, as far as it can be, until `stop` is set. By name, why something stayed."""
    if not works_by_descriptor():
        return _empty_by_name(trash)
    stayed: dict[str, OSError] = {}
    try:
        top = open_folder(trash)
    except FileNotFoundError:
        return stayed
    try:
        while names := [name for name in os.listdir(top) if name not in stayed]:
            for name in names:
                if stop.is_set():
                    return stayed
                try:
                    _remove(top, name, stop)
                except OSError as error:
                    stayed[name] = error
    finally:
        os.close(top)
    return stayed


def _remove(top: int, name: str, stop: threading.Event) -> None:
    """One entry of the top. Folders in it are at the top afterwards."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
        _unlink(top, name)
        return
    folder = open_folder(name, top)
    try:
        _open_to_owner(folder)
        failed: dict[str, OSError] = {}
        while not stop.is_set():
            with os.scandir(folder) as entries:
                some = list(islice((entry for entry in entries if entry.name not in failed), _AT_ONCE))
            if not some:
                break
            for entry in some:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        _bring_up(folder, entry.name, top)
                    else:
                        _unlink(folder, entry.name)
                except OSError as error:
                    failed[entry.name] = error
    finally:
        os.close(folder)
    for why in failed.values():
        raise why
    if not stop.is_set():
        os.rmdir(name, dir_fd=top)


def _bring_up(folder: int, name: str, top: int) -> None:
    moved = open_folder(name, folder)
    try:
        _open_to_owner(moved)  # moving a folder takes the right to write into it
    finally:
        os.close(moved)
    os.rename(name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except PermissionError:
        _thaw_file(folder, name)
        os.unlink(name, dir_fd=folder)


def _open_to_owner(folder: int) -> None:
    _thaw(folder)
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # not ours: then its owner's rights are no help either
            os.fchmod(folder, stat.S_IRWXU)


def _thaw_file(folder: int, name: str) -> None:
    if sys.platform == "win32":
        return
    if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        with contextlib.suppress(OSError):  # it cannot be opened: the second unlink says what is wrong
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                _thaw(file)
            finally:
                os.close(file)


def _thaw(descriptor: int) -> None:
    """Take away the flags that forbid removal, where this system has them and lets us."""
    if sys.platform != "linux":
        return
    import fcntl

    flags = bytearray(8)
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        found = int.from_bytes(flags[:4], sys.byteorder)
        if found & (_IMMUTABLE | _APPEND_ONLY):
            left = found & ~(_IMMUTABLE | _APPEND_ONLY)
            fcntl.ioctl(descriptor, _SET_FLAGS, left.to_bytes(8, sys.byteorder))


def _empty_by_name(trash: Path) -> dict[str, OSError]:
    stayed: dict[str, OSError] = {}
    with contextlib.suppress(FileNotFoundError):
        for path in list(trash.iterdir()):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except OSError as error:
                stayed[path.name] = error
    return stayed
