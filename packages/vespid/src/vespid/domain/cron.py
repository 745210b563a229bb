"""When a cron trigger fires.

Five fields, in a time zone. Wall-clock times that daylight saving skips fire at the first moment after the gap; times
that it repeats fire once; expressions with `*` or a step in the hour go by the clock's true hours. Firings that were
missed (nothing was running) are made up for by one, never by all of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FIELDS = 5


class CronInvalid(ValueError):
    """Not a cron expression, or not a time zone; the message says what is wrong."""


class TimezoneInvalid(CronInvalid):
    """The time zone is at fault."""


class Firing(NamedTuple):
    """One firing that is due, and what is planned next."""

    # The time it stands for (epoch ms): the earliest that was missed.
    scheduled_at: int
    # None: it will never fire again.
    next_at: int | None


@lru_cache(maxsize=1024)
def _zone(timezone: str) -> ZoneInfo:
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise TimezoneInvalid(f"unknown time zone `{timezone}`; use a name like Europe/Berlin") from error


def validate(expression: str, timezone: str = "UTC") -> None:
    """Raises CronInvalid."""
    if next_at(expression, timezone, 0) is None:
        raise CronInvalid(f"`{expression}` never fires")


def next_at(expression: str, timezone: str, after_ms: int) -> int | None:
    """The first firing after `after_ms` (both epoch ms), or None where there is none. Raises CronInvalid."""
    fields = expression.upper().split()
    if len(fields) != _FIELDS:
        raise CronInvalid(f"`{expression}` must have five fields: minute hour day month weekday")
    after = datetime.fromtimestamp(after_ms / 1000, UTC).astimezone(_zone(timezone))
    try:
        for found in CronSim(" ".join(fields), after):
            found_ms = int(found.timestamp() * 1000)
            # Within a repeated hour the library may answer with the first of the two, which is over.
            if found_ms > after_ms:
                return found_ms
    except CronSimError as error:
        raise CronInvalid(f"`{expression}`: {error}") from error
    return None


def fire(expression: str, timezone: str, due_at: int, now_ms: int) -> Firing:
    """What to do about a schedule that was due at `due_at`: one run, however many firings were missed."""
    return Firing(due_at, next_at(expression, timezone, max(due_at, now_ms)))
