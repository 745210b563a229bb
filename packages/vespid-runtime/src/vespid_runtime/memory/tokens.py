"""Cutting text of any language into what is searched for.

A token consists of letters, digits, `_` and marks, folded: case, accents and widths do not matter. In scripts that are
written without spaces (Chinese, Japanese, Thai; Korean too, whose particles hang on) each character is a token, as is
each symbol, so that any part of a sentence is found as a phrase, whatever its words are. Nothing in ASCII but
`[a-z0-9_]` is ever in a token, so none means anything to the database.
"""

import re
import unicodedata
from functools import cache

# First and last of each block of the scripts without spaces between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"  # Thai to Tai Tham
    "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Where marks are looked for; beyond are symbols and rare ideographs.
_MARKS_UNTIL = 0x1F000
_INVISIBLE = "\u00ad\u034f\u0640\u200b\u200c\u200d\u2060\ufe0e\ufe0f\ufeff"
# Letters that people expect to be one, though Unicode takes none of them apart.
_ALIKE = {"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ى": "ي", "ة": "ه"}

_ASCII_TOKEN = re.compile(r"[a-z0-9_]+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_]+")
_HUMP = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def tokenize(text: str) -> list[str]:
    """The tokens of a text, in order."""
    if text.isascii():
        found = _ASCII_TOKEN.findall(text.lower())
    else:
        found = [
            match[0]
            for match in _token().finditer(_fold(text))
            if match.lastgroup != "other" or unicodedata.category(match[0])[0] == "S"
        ]
    return [token for token in (token.strip("_") for token in found) if token]


def identifier_parts(text: str) -> list[str]:
    """The words inside identifiers, in order: of `parseRequestId` and `parse_request_id` the same three."""
    parts: list[str] = []
    for match in _IDENTIFIER.finditer(text):
        name = match[0]
        if name.islower() and name.isalpha():
            continue
        humps = [hump.lower() for hump in _HUMP.findall(name)]
        if len(humps) > 1:
            parts += humps
    return parts


def is_unspaced(token: str) -> bool:
    """Whether the token is one character of a script without spaces, or a symbol: no beginning of a longer one."""
    match = None if token.isascii() else _token().match(token)
    return match is not None and match.lastgroup != "word"


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", decomposed.translate(_dropped()))


@cache
def _dropped() -> dict[int, str | None]:
    """What folding takes away: accents, not the vowels and voicings that make another letter of the one before."""
    dropped: dict[int, str | None] = {ord(character): None for character in _INVISIBLE}
    for point in range(0x300, _MARKS_UNTIL):
        combining = unicodedata.combining(chr(point))
        if 10 <= combining <= 35 or combining >= 200:
            dropped[point] = None
    dropped.update({ord(letter): same for letter, same in _ALIKE.items()})
    return dropped


@cache
def _token() -> re.Pattern[str]:
    marks = _ranges([point for point in range(0x300, _MARKS_UNTIL) if unicodedata.category(chr(point))[0] == "M"])
    return re.compile(
        f"(?P<alone>[{_UNSPACED}][{marks}]*)"
        f"|(?P<word>(?:(?![{_UNSPACED}])[\\w{marks}])+)"
        r"|(?P<other>[^\w\s\x00-\x7f])"
    )


def _ranges(points: list[int]) -> str:
    """A character class's inside."""
    spans: list[list[int]] = []
    for point in points:
        if spans and point == spans[-1][1] + 1:
            spans[-1][1] = point
        else:
            spans.append([point, point])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)
