"""What the state machines have in common: rows, the way they are found, and the picture made of them.

A machine is a tuple of rows. A row says which event it answers, in which states, where it leads (None: the state
stays), which guards must all hold, and what follows as data. Of the rows for (state, event) the first whose guards
hold is taken. No row at all: `IllegalTransition`, and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)
G = TypeVar("G", bound=StrEnum)
F = TypeVar("F", bound=StrEnum)


class IllegalTransition(Exception):
    """This event cannot happen in this state: a fault of the caller. Nothing has changed."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: no {event} in {state}")
        self.machine = machine
        self.state = state
        self.event = event


class Row(NamedTuple, Generic[S, E, G, F]):
    """One line of a table."""

    event: E
    sources: tuple[S, ...]
    # None: the state stays what it is.
    target: S | None
    guards: tuple[G, ...] = ()
    effects: tuple[F, ...] = ()


def index(rows: Iterable[Row[S, E, G, F]]) -> Mapping[tuple[S, E], tuple[Row[S, E, G, F], ...]]:
    """The rows by (state, event), in the order of the table."""
    found: dict[tuple[S, E], list[Row[S, E, G, F]]] = {}
    for row in rows:
        for source in row.sources:
            found.setdefault((source, row.event), []).append(row)
    return {key: tuple(candidates) for key, candidates in found.items()}


def diagram(rows: Iterable[Row[S, E, G, F]], start: S) -> str:
    """The table as a Mermaid state diagram. Rows that change no state are left out: they are in the table."""
    lines = ["stateDiagram-v2", f"    [*] --> {start}"]
    changes = [(row, source) for row in rows for source in row.sources if row.target is not None]
    merged: dict[tuple[str, str], list[str]] = {}
    for row, source in changes:
        if row.target is None or row.target == source:
            continue
        label = row.event.value + (f" [{', '.join(row.guards)}]" if row.guards else "")
        labels = merged.setdefault((source, row.target), [])
        if label not in labels:
            labels.append(label)
    for (source_name, target_name), labels in merged.items():
        lines.extend(f"    {source_name} --> {target_name}: {label}" for label in labels)
    sources = {source for row in rows for source in row.sources}
    targets = {row.target for row in rows if row.target is not None}
    leaving = {source for source, _ in merged}
    lines.extend(f"    {name} --> [*]" for name in sorted((sources | targets) - leaving))
    return "\n".join(lines)


def markdown(rows: Iterable[Row[S, E, G, F]]) -> str:
    """The table for people."""
    lines = ["| event | from | to | if | then |", "|---|---|---|---|---|"]
    for row in rows:
        target = "same" if row.target is None else row.target.value
        cells = (row.event.value, ", ".join(row.sources), target, ", ".join(row.guards), ", ".join(row.effects))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
