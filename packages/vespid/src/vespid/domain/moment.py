"""How a moment is spelled on every wire: UTC, milliseconds, Z."""

from datetime import UTC, datetime


def iso(moment: datetime) -> str:
    """`2026-01-02T03:04:05.678Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
