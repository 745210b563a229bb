"""Paths into JSON values: `.name`, `[0]`, `["a name"]`, as templates and conditions write them."""

from __future__ import annotations

import re
from typing import Final

import msgspec

Segment = str | int

_SEGMENT = re.compile(
    r"""\.(?P<name>[A-Za-z0-9_-]+)|\[(?:(?P<index>\d{1,9})|(?P<quoted>"(?:[^"\\]|\\.)*"|'[^'\\]*'))\]"""
)


class PathInvalid(ValueError):
    """The text is not a path; the message says from where on."""


class Missing:
    """The answer where a path leads nowhere; null is a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


def parse_segments(text: str) -> tuple[Segment, ...]:
    """The segments of `.a[0]["b c"]`; an empty text has none. Raises PathInvalid."""
    segments: list[Segment] = []
    position = 0
    while position < len(text):
        match = _SEGMENT.match(text, position)
        if match is None:
            raise PathInvalid(
                f'`{text[position : position + 20]}` is not a step of a path; write .name, [0] or ["name"]'
            )
        segments.append(_segment(match))
        position = match.end()
    return tuple(segments)


def _segment(match: re.Match[str]) -> Segment:
    if (name := match["name"]) is not None:
        return name
    if (index := match["index"]) is not None:
        return int(index)
    quoted = match["quoted"]
    if quoted.startswith("'"):
        return quoted[1:-1]
    try:
        return msgspec.json.decode(quoted, type=str)
    except msgspec.DecodeError as error:
        raise PathInvalid(f"{quoted}: {error}") from error


def resolve(value: object, segments: tuple[Segment, ...]) -> object:
    """What the path leads to, or MISSING. A number also names a key of an object, and digits an element of an array."""
    for segment in segments:
        if isinstance(value, dict):
            value = value.get(segment if isinstance(segment, str) else str(segment), MISSING)
        elif isinstance(value, list):
            index = _index(segment)
            value = value[index] if index is not None and index < len(value) else MISSING
        else:
            return MISSING
        if value is MISSING:
            return MISSING
    return value


def _index(segment: Segment) -> int | None:
    if isinstance(segment, int):
        return segment
    return int(segment) if segment.isdecimal() and len(segment) < 10 else None
