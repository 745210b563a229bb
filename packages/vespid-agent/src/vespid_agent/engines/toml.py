"""Writing TOML: the standard library only reads it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


def dumps(document: Mapping[str, object]) -> str:
    """Tables inside the document are written in a line. What TOML does not have is left out: null."""
    return "".join(f"{_string(name)} = {_value(value)}\n" for name, value in document.items() if value is not None)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inner = (f"{_string(str(name))} = {_value(each)}" for name, each in value.items() if each is not None)
        return "{ " + ", ".join(inner) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    return _string(str(value))


def _string(text: str) -> str:
    """As JSON has it, but for one character that TOML wants escaped too."""
    clean = text.encode("utf-8", "replace").decode()
    return msgspec.json.encode(clean).decode().replace("\x7f", "\\u007f")
