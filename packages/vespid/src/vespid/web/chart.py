"""Charts as the pages draw them: geometry only, in a field of WIDTH by HEIGHT that the browser stretches.

Words stand beside the picture, in HTML, so that they stay readable however narrow it gets; every chart has a table too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 600
HEIGHT = 120
# Of a bar's place, how much stays free.
_GAP = 0.25


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of a column: its upper left corner and its size; `kind` is its class."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """The `d` of a path through what is known, and points where a value has no neighbours; `kind` is its class."""

    kind: str
    path: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """Columns of parts that add up; `top` is what the full height stands for."""

    bars: tuple[Bar, ...]
    top: int


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines over the same places; `top` is what the full height stands for."""

    lines: tuple[Line, ...]
    top: int


def bars(buckets: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> Bars:
    """A column per bucket; `kinds` says, from the ground up, which field is drawn as what."""
    top = _round_up(max((sum(bucket[name] for name in kinds) for bucket in buckets), default=0))
    place = WIDTH / max(1, len(buckets))
    drawn: list[Bar] = []
    for at, bucket in enumerate(buckets):
        ground = float(HEIGHT)
        for name, kind in kinds.items():
            height = HEIGHT * bucket[name] / top
            if height:
                ground -= height
                drawn.append(
                    Bar(kind, _r(place * (at + _GAP / 2)), _r(ground), _r(place * (1 - _GAP)), _r(height)),
                )
    return Bars(tuple(drawn), top)


def lines(buckets: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> Lines:
    """A line per field of `kinds`; where nothing is known (null) it is broken."""
    top = _round_up(max((bucket[name] or 0 for bucket in buckets for name in kinds), default=0))
    return Lines(tuple(_line(kind, [bucket[name] for bucket in buckets], top) for name, kind in kinds.items()), top)


def _line(kind: str, values: Sequence[float | None], top: int) -> Line:
    place = WIDTH / max(1, len(values))
    path: list[str] = []
    points: list[tuple[float, float]] = []
    for at, value in enumerate(values):
        if value is None:
            continue
        x, y = _r(place * (at + 0.5)), _r(HEIGHT * (1 - value / top))
        goes_on = at > 0 and values[at - 1] is not None
        path.append(f"{'L' if goes_on else 'M'}{x} {y}")
        if not goes_on and (at + 1 == len(values) or values[at + 1] is None):
            points.append((x, y))
    return Line(kind, " ".join(path), tuple(points))


def _round_up(highest: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50…: a height that people can reckon with."""
    if highest <= 1:
        return 1
    size: int = 10 ** int(math.log10(highest))
    return next(step * size for step in (1, 2, 5, 10) if step * size >= highest)


def _r(number: float) -> float:
    return round(number, 2)
