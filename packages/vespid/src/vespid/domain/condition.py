"""Conditions: `{path, op, value?}` over the run's input and the outputs of earlier nodes.

`$.input.…` and `$.steps.<node>.output.…`; any other path is relative to the input (`$.a`, `a.b`, `a`). A path that
leads nowhere makes every operator false except `neq`. JSON's own equality: 1 equals 1.0, true does not equal 1.
`exists` is false for null. The orderings compare two numbers or two strings and are false for anything else.
"""

from __future__ import annotations

import msgspec

from vespid.domain.path import MISSING, PathInvalid, Segment, parse_segments, resolve
from vespid.domain.template import Scope

OPERATORS = ("eq", "neq", "contains", "exists", "gt", "gte", "lt", "lte")
EXPLAIN_VALUE_MAX_CHARS = 120


class ConditionPath(msgspec.Struct, frozen=True):
    """A condition's path taken apart; `node_id` None: over the input."""

    source: str
    node_id: str | None
    segments: tuple[Segment, ...]


def parse_path(source: str) -> ConditionPath:
    """Raises PathInvalid."""
    text = source.strip()
    if text.startswith("$"):
        text = text[1:]
    elif text and text[0] not in ".[":
        text = "." + text
    segments = parse_segments(text)
    if segments and segments[0] == "input":
        return ConditionPath(source, None, segments[1:])
    if segments and segments[0] == "steps":
        if len(segments) < 3 or segments[2] != "output":
            raise PathInvalid(f"`{source}` must be $.steps.<nodeId>.output…")
        return ConditionPath(source, str(segments[1]), segments[3:])
    return ConditionPath(source, None, segments)


def evaluate(path: ConditionPath, op: str, value: object, scope: Scope) -> dict[str, object]:
    """The condition's output `{result, explain}`."""
    root = scope.input() if path.node_id is None else scope.output(path.node_id)
    actual = resolve(root, path.segments)
    result = holds(actual, op, value)
    expected = "" if op == "exists" else f" {_brief(value)}"
    return {"result": result, "explain": f"{path.source} ({_brief(actual)}) {op}{expected} is {str(result).lower()}"}


def holds(actual: object, op: str, expected: object) -> bool:
    """Whether `actual op expected`; `actual` may be MISSING."""
    if op == "exists":
        return actual is not MISSING and actual is not None
    if op == "neq":
        return actual is MISSING or not _equal(actual, expected)
    if actual is MISSING:
        return False
    if op == "eq":
        return _equal(actual, expected)
    if op == "contains":
        return _contains(actual, expected)
    return _ordered(actual, op, expected)


def _contains(actual: object, expected: object) -> bool:
    if isinstance(actual, str):
        return isinstance(expected, str) and expected in actual
    if isinstance(actual, list):
        return any(_equal(item, expected) for item in actual)
    return isinstance(actual, dict) and isinstance(expected, str) and expected in actual


def _ordered(actual: object, op: str, expected: object) -> bool:
    left: float | str
    right: float | str
    if _is_number(actual) and _is_number(expected):
        difference = _compare(actual, expected)
    elif isinstance(actual, str) and isinstance(expected, str):
        left, right = actual, expected
        difference = (left > right) - (left < right)
    else:
        return False
    return {"gt": difference > 0, "gte": difference >= 0, "lt": difference < 0, "lte": difference <= 0}[op]


def _compare(left: object, right: object) -> int:
    assert isinstance(left, (int, float))
    assert isinstance(right, (int, float))
    return (left > right) - (left < right)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))
    return left == right


def _brief(value: object) -> str:
    if value is MISSING:
        return "missing"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= EXPLAIN_VALUE_MAX_CHARS else text[:EXPLAIN_VALUE_MAX_CHARS] + "…"
