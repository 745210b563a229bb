"""Cutting text from its middle: the beginning says what it is and the end how it ended.

The one thing to know: a limit counts the characters of the text as JSON, which is what travels and what is kept; a
text of control characters is six times as long there.
"""

from __future__ import annotations

import msgspec

from vespid_protocol.text import clean_text


def json_chars(text: str) -> int:
    """How many characters `text` has as JSON, without its quotes."""
    return len(msgspec.json.encode(text).decode()) - 2


def cut_middle(text: str, max_chars: int) -> str:
    """`text` with no more than `max_chars` as JSON; what was left out of its middle is marked with its length.

    NUL and lone surrogates become U+FFFD. Where not even the mark has room, the beginning is what is kept.
    """
    # Nothing further away than this can be kept, so that ten megabytes are not looked at.
    length = len(text)
    text, _ = clean_text(text if length <= 2 * max_chars else text[:max_chars] + text[-max_chars:])
    if length == len(text) and (6 * length <= max_chars or json_chars(text) <= max_chars):
        return text
    room = max_chars - json_chars(_mark(length))
    if room < 2:
        return _first(text, max_chars)
    head = _first(text, room - room // 3)
    tail = _last(text, min(room - json_chars(head), room // 3))
    return f"{head}{_mark(length - len(head) - len(tail))}{tail}"


def cut_end(text: str, max_chars: int) -> str:
    """The first characters, counted as they are; clean likewise."""
    return clean_text(text[:max_chars])[0]


def _mark(left_out: int) -> str:
    return f" [... {left_out} characters left out ...] "


def _first(text: str, max_chars: int) -> str:
    """As much of the beginning as has room."""
    text = text[:max_chars]
    while text and (excess := json_chars(text) - max_chars) > 0:
        # A character is six at most.
        text = text[: -max(1, excess // 6)]
    return text


def _last(text: str, max_chars: int) -> str:
    text = text[-max_chars:] if max_chars > 0 else ""
    while text and (excess := json_chars(text) - max_chars) > 0:
        text = text[max(1, excess // 6) :]
    return text
