"""What stops a command: the cause, the mend, and the status that the process ends with."""

from vespid.cli import exit_codes


class Problem(Exception):
    """The message is the cause; `mend` says what to do about it, or is empty."""

    def __init__(self, cause: str, mend: str = "", exit_code: int = exit_codes.FAILED) -> None:
        super().__init__(cause)
        self.cause = cause
        self.mend = mend
        self.exit_code = exit_code


def wrong_usage(cause: str, mend: str = "") -> Problem:
    """What was asked for cannot be meant."""
    return Problem(cause, mend, exit_codes.USAGE)


def missing(cause: str, mend: str = "") -> Problem:
    """What was named is not there."""
    return Problem(cause, mend, exit_codes.NOT_FOUND)


def not_signed_in(cause: str, mend: str = "Sign in: vespid login") -> Problem:
    """Nobody has said who calls, or it holds no more."""
    return Problem(cause, mend, exit_codes.DENIED)
