"""How values are spelled in answers: timestamps with milliseconds and Z."""

from datetime import UTC, datetime


def iso(moment: datetime) -> str:
    """`2026-01-02T03:04:05.678Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def iso_or_none(moment: datetime | None) -> str | None:
    """The same, where there may be none."""
    return None if moment is None else iso(moment)
