"""Opening folders that a hostile task has made: by name from a folder that is open already, so through no link."""

import os
import stat
import sys

# Of `st_blocks`, whatever the file system's own are.
_BLOCK = 512

# A task may leave anything under a name: opening must neither follow it, nor wait for it, nor hand it on.
_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


def works_by_descriptor() -> bool:
    """Whether this system lets a folder be walked without naming the way to it."""
    return os.scandir in os.supports_fd and os.open in os.supports_dir_fd


def open_folder(name: str | os.PathLike[str], parent: int | None = None) -> int:
    """A descriptor that can be listed; one that its owner had closed to himself is opened to him. Raises OSError."""
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        if sys.platform != "linux":
            raise
    held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # A descriptor of this kind has no other way to its mode.
        os.chmod(f"/proc/self/fd/{held}", stat.S_IMODE(os.fstat(held).st_mode) | stat.S_IRWXU)
    finally:
        os.close(held)
    return os.open(name, _OPEN, dir_fd=parent)


def disk_bytes(status: os.stat_result) -> int:
    """What a file takes on its disk; where the system does not say, how long it is."""
    if sys.platform == "win32":
        return status.st_size
    return status.st_blocks * _BLOCK
