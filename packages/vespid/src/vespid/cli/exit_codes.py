"""What the status of a `vespid` process says. Scripts rely on these numbers."""

DONE = 0
# The thing asked for failed: a run failed, the server refused, a check found something broken.
FAILED = 1
USAGE = 2
# Not signed in, or not allowed.
DENIED = 3
NOT_FOUND = 4
# The server cannot be reached.
UNREACHABLE = 5
INTERRUPTED = 130

MEANINGS = (
    "Exit codes: 0 done · 1 failed (a run failed, the server refused) · 2 wrong usage or settings · "
    "3 not signed in, or not allowed · 4 not found · 5 the server cannot be reached · 130 interrupted"
)
