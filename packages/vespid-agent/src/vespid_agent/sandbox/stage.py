"""The stage: where the folder of a task of an agent that is root is put, so that `nobody` can reach it.

The folder's parents may be closed to other users. So the task's own process, in a mount namespace of its own, covers
/tmp, which bwrap does not show to the task, with a tiny file system that holds nothing but the folder.
"""

import ctypes
import os
import sys

assert sys.platform == "linux"

FOLDER = "/tmp/work"  # noqa: S108 - not used as a temporary directory

_NOBODY = 65534
_COVERED = os.path.dirname(FOLDER)
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def enter_as_nobody(workdir: bytes) -> None:
    """Give `nobody` the folder, put it on the stage, and become `nobody`. Raises OSError."""
    os.chown(workdir, _NOBODY, _NOBODY, follow_symlinks=False)
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        raise _failed("unshare")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    held = os.open(workdir, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY)
    _mount("vespid", _COVERED, "tmpfs", 0, "mode=0755,size=64k")
    os.mkdir(FOLDER)
    _mount(f"/proc/self/fd/{held}", FOLDER, None, _MS_BIND)
    os.close(held)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    if _LIBC.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]) != 0:
        raise _failed(f"mount {target}")


def _failed(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
