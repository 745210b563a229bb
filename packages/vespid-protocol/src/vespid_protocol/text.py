"""Hygiene for text from outside: NUL and lone surrogates become U+FFFD, and are counted.

Postgres stores neither in `text` nor `jsonb`, and UTF-8 cannot carry a surrogate at all. Both arrive through JSON
escapes (``\\u0000``, ``\\ud83d`` without its other half), so they are looked for in the bytes, before parsing: text
that has no ``\\u`` escape of that kind (nearly all of it) costs one or two scans and no copy.
"""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
_REPLACEMENT_ESCAPE = b"\\ufffd"

_BAD_CHARACTER = re.compile("[\x00\ud800-\udfff]")
# Whether there may be something to do: an escape of NUL or of either half of a surrogate pair.
_SUSPECT_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
# Walks escapes from left to right, so that the second half of `\\\\` never starts one. Alternatives in order: a whole
# pair, which is fine; something bad (group 1); any other escape, which is fine.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2}))"
    rb"|\\.",
    re.DOTALL,
)


def clean_text(text: str) -> tuple[str, int]:
    """`text` with every NUL and lone surrogate replaced by U+FFFD, and how many there were."""
    if text.isascii() and "\x00" not in text:
        return text, 0
    return _BAD_CHARACTER.subn(REPLACEMENT, text)


def clean_json(data: bytes) -> tuple[bytes, int]:
    """JSON bytes with every escaped NUL and lone surrogate replaced by an escaped U+FFFD, and how many there were.

    The bytes themselves must be UTF-8; what is not JSON comes back as other non-JSON. Without anything to do, the same
    object comes back.
    """
    if b"\\u" not in data or _SUSPECT_ESCAPE.search(data) is None:
        return data, 0
    count = 0

    def replace(match: re.Match[bytes]) -> bytes:
        nonlocal count
        if match.group(1) is None:
            return match.group(0)
        count += 1
        return _REPLACEMENT_ESCAPE

    cleaned = _ESCAPE.sub(replace, data)
    return (cleaned, count) if count else (data, 0)
