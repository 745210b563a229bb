"""What goes wrong between us and Redis.

BusError
├── BusUnavailable    it cannot be reached, or did not answer in time; whether it acted is not known
└── BusReplyError     it answered, with an error: ours to fix
"""


class BusError(Exception):
    """Something between this process and Redis failed."""


class BusUnavailable(BusError):
    """Redis cannot be reached, or has not answered in time; whether it acted is not known."""


class BusReplyError(BusError):
    """Redis answered with an error."""
