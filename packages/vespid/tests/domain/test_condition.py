"""Conditions: every operator over every sort of value, and where paths lead."""

from __future__ import annotations

import pytest

from vespid.domain.condition import evaluate, holds, parse_path
from vespid.domain.path import MISSING, PathInvalid


@pytest.mark.parametrize(
    ("actual", "op", "expected", "result"),
    [
        (1, "eq", 1, True),
        (1, "eq", 1.0, True),
        (True, "eq", 1, False),
        (0, "eq", False, False),
        ([True], "eq", [1], False),
        ({"a": [1, {"b": None}]}, "eq", {"a": [1, {"b": None}]}, True),
        ({"a": 1}, "eq", {"a": 1, "b": 2}, False),
        ("1", "eq", 1, False),
        (None, "eq", None, True),
        (MISSING, "eq", None, False),
        (1, "neq", 2, True),
        (1, "neq", 1, False),
        (MISSING, "neq", 1, True),
        ("hello", "contains", "ell", True),
        ("hello", "contains", 1, False),
        ([1, "a"], "contains", "a", True),
        ([1], "contains", True, False),
        ({"k": 1}, "contains", "k", True),
        (5, "contains", 5, False),
        (MISSING, "contains", "a", False),
        (0, "exists", None, True),
        ("", "exists", None, True),
        (None, "exists", None, False),
        (MISSING, "exists", None, False),
        (2, "gt", 1, True),
        (1, "gt", 1, False),
        (1, "gte", 1.0, True),
        (1, "lt", 2, True),
        (2, "lte", 2, True),
        ("b", "gt", "a", True),
        ("10", "gt", 9, False),
        (True, "gt", 0, False),
        (None, "lt", 1, False),
        (MISSING, "lt", 1, False),
    ],
)
def test_operators(actual, op, expected, result):
    assert holds(actual, op, expected) is result


class Values:
    def input(self):
        return {"a": {"b": 1}, "input": 2}

    def output(self, node_id):
        return {"n": 5} if node_id == "s" else MISSING


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.input.a.b", 1),
        ("input.a.b", 1),
        ("$.a.b", 1),
        ("a.b", 1),
        ("a['b']", 1),
        ("$.steps.s.output.n", 5),
        ("steps.s.output.n", 5),
    ],
)
def test_paths(path, value):
    assert evaluate(parse_path(path), "eq", value, Values())["result"] is True


def test_output_explains_itself_in_few_words():
    assert evaluate(parse_path("$.input.a.b"), "gt", 3, Values()) == {
        "result": False,
        "explain": "$.input.a.b (1) gt 3 is false",
    }
    assert (
        evaluate(parse_path("$.input.zz"), "exists", None, Values())["explain"]
        == "$.input.zz (missing) exists is false"
    )
    assert len(str(evaluate(parse_path("a.b"), "eq", "x" * 10_000, Values())["explain"])) < 200


@pytest.mark.parametrize("path", ["$.a..b", "a b", "$.steps.s", "$.steps.s.status", "a[", "a['x]"])
def test_paths_that_are_none(path):
    with pytest.raises(PathInvalid):
        parse_path(path)
