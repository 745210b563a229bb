"""How values are shown: filters of the templates. What they give is text or escaped markup."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from markupsafe import Markup

_SHORT_ID = 8


def when(timestamp: str | None, *, relative: bool = True) -> Markup:
    """A moment: as it is for machines, told in the visitor's own time and language by the page's script."""
    if not timestamp:
        return Markup("–")
    kind = Markup(" data-relative") if relative else Markup("")
    return Markup('<time datetime="{}" data-moment{}>{}</time>').format(timestamp, kind, timestamp)


def short_id(value: str) -> str:
    """The part of a time-ordered id that tells it from its neighbours: its end."""
    return value[-_SHORT_ID:]


def pretty(value: Any) -> str:
    """JSON for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False)


def compact(value: Any) -> str:
    """JSON for a page's script, as the value of an attribute."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def duration(milliseconds: float | None) -> str:
    """A span of time: 480 ms, 3.2 s, 4 min 10 s, 2 h 5 min."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{round(milliseconds)} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def took(begun: str, ended: str | None) -> str:
    """The time between two moments of the API; a dash while it is not over."""
    if ended is None:
        return "–"
    return duration((datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds() * 1000)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "when": when,
    "short_id": short_id,
    "pretty": pretty,
    "compact": compact,
    "duration": duration,
    "took": took,
}
