"""What somebody is asked to allow, shown so that nothing in it hides: whole, and with invisible characters spelt out.

A right-to-left override or a zero-width space would let text read as something other than what will run; JSON may
spell every character as an escape, so the text that is shown is still that document.
"""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any

# Controls, formats (directions, zero widths), separators of lines and paragraphs, private and unassigned ones.
_HIDING = frozenset({"Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Cs"})
_SEEN = frozenset("\n\t")


def exact_json(value: Any) -> str:
    """The document, indented, as JSON."""
    return spelt_out(json.dumps(value, indent=2, ensure_ascii=False))


def exact_texts(value: Any) -> list[tuple[str, str]]:
    """Where in the document there are texts of several lines (scripts, prompts), and these as they will be read."""
    return [(path, spelt_out(text)) for path, text in _texts(value, "") if "\n" in text]


def spelt_out(text: str) -> str:
    """The same with each character that cannot be seen as its escape."""
    return "".join(_escape(char) if _hides(char) else char for char in text)


def _hides(char: str) -> bool:
    return char not in _SEEN and (
        unicodedata.category(char) in _HIDING or (char != " " and unicodedata.category(char) == "Zs")
    )


def _escape(char: str) -> str:
    return json.dumps(char)[1:-1]


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{at}]")
