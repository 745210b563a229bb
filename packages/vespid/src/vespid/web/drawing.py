"""The picture of a graph: boxes in columns by level, from left to right, and the lines between them.

An edge that passes levels by has a place of its own in each of them, so that no line runs behind a box.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

BOX_WIDTH = 172
BOX_HEIGHT = 46
GAP_X = 62
GAP_Y = 20
MARGIN = 12
# A place that only a line goes through.
LANE_HEIGHT = 14


@dataclass(frozen=True, slots=True)
class Box:
    """A node, at its upper left corner."""

    id: str
    type: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Line:
    """An edge as the `d` of a path; `label` ends where the line comes to its first place, apart from others'."""

    path: str
    label: str | None
    label_x: int
    label_y: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """All of it, in pixels."""

    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]
    # The same in words: `{id, type, next: [{to, label}]}`, in the graph's order.
    nodes: list[Mapping[str, Any]]


@dataclass(slots=True)
class _Place:
    node: Mapping[str, Any] | None
    level: int
    # The middle of the places before it: where it would like to be.
    wish: float = 0.0
    middle: int = 0

    @property
    def height(self) -> int:
        return BOX_HEIGHT if self.node is not None else LANE_HEIGHT


def draw(graph: Mapping[str, Any]) -> Drawing:
    """The picture of what `POST W/validate` answers as `graph`."""
    places = {node["id"]: _Place(node, node["level"]) for node in graph["nodes"]}
    columns: list[list[_Place]] = [[] for _ in range(max((p.level for p in places.values()), default=-1) + 1)]
    for place in places.values():
        columns[place.level].append(place)
    ways = [[places[edge["from"]], *_lanes(places, edge, columns), places[edge["to"]]] for edge in graph["edges"]]
    _settle(columns, ways)
    height = max((place.middle + place.height // 2 for column in columns for place in column), default=0)
    return Drawing(
        width=2 * MARGIN + len(columns) * BOX_WIDTH + max(len(columns) - 1, 0) * GAP_X,
        height=height + MARGIN,
        boxes=[
            Box(node_id, place.node["type"], _left(place.level), place.middle - BOX_HEIGHT // 2)
            for node_id, place in places.items()
            if place.node is not None
        ],
        lines=[_line(way, edge.get("label")) for way, edge in zip(ways, graph["edges"], strict=True)],
        nodes=_in_words(graph),
    )


def _in_words(graph: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    ahead: dict[str, list[Mapping[str, Any]]] = {node["id"]: [] for node in graph["nodes"]}
    for edge in graph["edges"]:
        ahead[edge["from"]].append({"to": edge["to"], "label": edge.get("label")})
    return [{**node, "next": ahead[node["id"]]} for node in graph["nodes"]]


def _lanes(places: Mapping[str, _Place], edge: Mapping[str, Any], columns: list[list[_Place]]) -> list[_Place]:
    lanes = [_Place(None, level) for level in range(places[edge["from"]].level + 1, places[edge["to"]].level)]
    for lane in lanes:
        columns[lane.level].append(lane)
    return lanes


def _settle(columns: Sequence[list[_Place]], ways: Sequence[list[_Place]]) -> None:
    """Give every place its middle: each column in the order of what comes before it, from the top."""
    before: dict[int, list[_Place]] = {}
    for way in ways:
        for earlier, later in pairwise(way):
            before.setdefault(id(later), []).append(earlier)
    for column in columns:
        for at, place in enumerate(column):
            middles = [earlier.middle for earlier in before.get(id(place), [])]
            place.wish = sum(middles) / len(middles) if middles else at
        column.sort(key=lambda place: place.wish)
        top = MARGIN
        for place in column:
            # As near to its wish as the places above it allow.
            top = max(top, round(place.wish) - place.height // 2)
            place.middle = top + place.height // 2
            top += place.height + GAP_Y


def _left(level: int) -> int:
    return MARGIN + level * (BOX_WIDTH + GAP_X)


def _line(way: Sequence[_Place], label: str | None) -> Line:
    x, y = _left(way[0].level) + BOX_WIDTH, way[0].middle
    path = [f"M{x} {y}"]
    for place in way[1:]:
        to_x, half = _left(place.level), GAP_X // 2
        path.append(f"C{x + half} {y} {to_x - half} {place.middle} {to_x} {place.middle}")
        x, y = to_x, place.middle
        if place.node is None:
            x += BOX_WIDTH
            path.append(f"L{x} {y}")
    return Line(" ".join(path), label, _left(way[1].level) - 10, way[1].middle - 6)
