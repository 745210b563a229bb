"""One line of the report: a figure and what it stands beside."""

import msgspec


class Figure(msgspec.Struct):
    """`ratio` is value to floor; what it means depends on the figure."""

    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None


def figure(value: float, unit: str, floor: float | None = None) -> Figure:
    return Figure(round(value, 3), unit, None if floor is None else round(floor, 3), _ratio(value, floor))


def _ratio(value: float, floor: float | None) -> float | None:
    return None if not floor else round(value / floor, 3)
