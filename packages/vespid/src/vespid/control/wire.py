"""How values are spelled in answers: timestamps with milliseconds and Z."""

from datetime import datetime

from vespid.domain.moment import iso

__all__ = ["iso", "iso_or_none"]


def iso_or_none(moment: datetime | None) -> str | None:
    """The moment, where there may be none."""
    return None if moment is None else iso(moment)
