"""One line of the doctor's."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was looked at, and how it is."""

    check: str
    level: Level
    # What was found; of a problem its cause.
    found: str
    # What to do.
    mend: str | None = None


def ok(check: str, found: str) -> Finding:
    return Finding(check=check, level="ok", found=found)


def warn(check: str, found: str, mend: str | None = None) -> Finding:
    return Finding(check=check, level="warn", found=found, mend=mend)


def fail(check: str, found: str, mend: str | None = None) -> Finding:
    return Finding(check=check, level="fail", found=found, mend=mend)
