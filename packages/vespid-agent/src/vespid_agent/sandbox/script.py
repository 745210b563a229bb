"""A script as a file that is in memory only: never on a disk, never in a process list, of any length."""

import os
import sys

# Where the program finds its script.
SCRIPT_DESCRIPTOR = 3
SCRIPT_PATH = f"/dev/fd/{SCRIPT_DESCRIPTOR}"


def memory_file(name: str, content: bytes) -> int:
    """A descriptor at the beginning of `content`; the caller closes it."""
    if sys.platform != "linux":
        raise OSError("files in memory need Linux")
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
