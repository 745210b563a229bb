"""What an end means to a script; the table is at the top of `cli.py`."""

from enum import IntEnum


class ExitCode(IntEnum):
    STOPPED = 0
    REFUSED = 1
    USAGE = 2
    PAIRING = 3
    IDENTITY = 4
    HANGS = 5
    UNLINKED = 6
    FAULT = 70
    INTERRUPTED = 130

    # By the names of other commands.
    FAILED = 1
    NOT_RUNNING = 4
