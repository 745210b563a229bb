"""A workflow's definition as text: its keys in the order in which people write them, and what differs between two.

The database keeps the meaning of a definition and not the order of its keys, so that is made here.
"""

import json
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

# Keys in this order come first wherever they are; the others follow as they are, `config` and what is long at the end.
_FIRST = (
    "version",
    "trigger",
    "id",
    "type",
    "from",
    "to",
    "kind",
    "mode",
    "approval",
    "timeoutMs",
    "retry",
    "onLost",
    "execution",
)
_LAST = ("config", "nodes", "edges", "graph")

Kind = Literal["same", "gone", "new", "changed", "skipped"]
# How many equal lines are shown around a difference.
CONTEXT_LINES = 3


def definition_text(dsl: Any) -> str:
    """JSON for people to read and write."""
    return json.dumps(_arranged(dsl), indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the older text beside one of the newer, each with its number; None: there is none on this side."""

    kind: Kind
    old: str | None = None
    new: str | None = None
    old_number: int | None = None
    new_number: int | None = None
    # Of `skipped`: how many equal lines are not shown.
    count: int = 0


def compare(old: str, new: str) -> list[Row]:
    """Line by line; long stretches that are the same are skipped."""
    before, after = old.splitlines(), new.splitlines()
    rows: list[Row] = []
    groups = SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(CONTEXT_LINES)
    shown_to = 0
    for group in groups:
        if group[0][1] > shown_to:
            rows.append(Row("skipped", count=group[0][1] - shown_to))
        shown_to = group[-1][2]
        for tag, old_from, old_to, new_from, new_to in group:
            rows += _rows(tag, before, after, range(old_from, old_to), range(new_from, new_to))
    if rows and len(before) > shown_to:
        rows.append(Row("skipped", count=len(before) - shown_to))
    return rows


def _rows(tag: str, before: list[str], after: list[str], olds: range, news: range) -> list[Row]:
    rows: list[Row] = []
    for at in range(max(len(olds), len(news))):
        old = olds[at] if at < len(olds) else None
        new = news[at] if at < len(news) else None
        kind: Kind = "same" if tag == "equal" else "gone" if new is None else "new" if old is None else "changed"
        rows.append(
            Row(
                kind,
                None if old is None else before[old],
                None if new is None else after[new],
                None if old is None else old + 1,
                None if new is None else new + 1,
            )
        )
    return rows


def _arranged(value: Any) -> Any:
    if isinstance(value, list):
        return [_arranged(item) for item in value]
    if not isinstance(value, dict):
        return value
    middle = [key for key in value if key not in _FIRST and key not in _LAST]
    order = [*(key for key in _FIRST if key in value), *middle, *(key for key in _LAST if key in value)]
    return {key: _arranged(value[key]) for key in order}
