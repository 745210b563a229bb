"""Times as people read them."""

from datetime import UTC, datetime


def parsed(moment: str | datetime) -> datetime:
    """The API's spelling, or what a client made of it."""
    return moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)


def clock(moment: str | datetime) -> str:
    """The time of day here, to the millisecond."""
    return parsed(moment).astimezone().strftime("%H:%M:%S.%f")[:-3]


def stamp(moment: str | datetime | None) -> str:
    """Date and time here; empty for None."""
    return "" if moment is None else parsed(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(moment: str | datetime | None, now: datetime | None = None) -> str:
    """How long ago it was, or in how long it will be; empty for None."""
    if moment is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - parsed(moment)).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{short(seconds)} ago" if seconds > 0 else f"in {short(-seconds)}"


def short(seconds: float) -> str:
    """A length of time: 12ms, 3.4s, 5m 12s, 2h 3m, 4d 1h."""
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, size, below, unit_below in (("d", 86400, 3600, "h"), ("h", 3600, 60, "m"), ("m", 60, 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit} {rest}{unit_below}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def between(start: str | datetime | None, end: str | datetime | None) -> str:
    """How long something took; to now where it is not over; empty where it has not begun."""
    if start is None:
        return ""
    until = datetime.now(UTC) if end is None else parsed(end)
    return short(max(0.0, (until - parsed(start)).total_seconds()))
