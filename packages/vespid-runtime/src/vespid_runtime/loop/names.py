"""Tool ids and the names that models know them by: providers take letters, digits, `_` and `-`, 64 at most.

The one thing to know: names depend on all the tools of the task, so that two ids never share one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

NAME_MAX_CHARS = 64
_DIGEST_CHARS = 8
_ANY_SHELL = "shell.*"
_NOT_ALLOWED_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


def spell(text: str) -> str:
    """Something that every provider takes as a name, and is like `text`."""
    return _NOT_ALLOWED_IN_NAMES.sub("_", text)[:NAME_MAX_CHARS] or "_"


def name_tools(ids: Iterable[str]) -> Mapping[str, str]:
    """The name of each tool, by its id."""
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    # Those that need no other spelling keep their own.
    for tool_id in sorted(set(ids), key=lambda tool_id: (spell(tool_id) != tool_id, tool_id)):
        name = spell(tool_id)
        if name in taken or len(tool_id) > NAME_MAX_CHARS:
            digest = hashlib.sha256(tool_id.encode()).hexdigest()[:_DIGEST_CHARS]
            name = f"{name[: NAME_MAX_CHARS - _DIGEST_CHARS - 1]}_{digest}"
        taken[name] = tool_id
        names[tool_id] = name
    return names


def is_allowed(tool_id: str, allow: Iterable[str]) -> bool:
    """By its id, or by `<beginning>.*`. A shell by its id only: nobody is to let models run commands unawares."""
    return any(
        tool_id == entry
        or (entry.endswith(".*") and entry != _ANY_SHELL and tool_id.startswith(entry.removesuffix("*")))
        for entry in allow
    )
