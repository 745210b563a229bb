"""The parts of `docs/protocol.md` that are made from the code: frames, tables, pictures, codes.

Each stands between ``<!-- made: name -->`` and ``<!-- end -->``. As a program this is a filter, the page in and the
page out: ``python -m vespid_protocol.reference < docs/protocol.md``. A test fails while the page is behind the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import get_args

import msgspec

from vespid_protocol import connection, journal, lease
from vespid_protocol.client_frames import ClientFrame, ServerFrame
from vespid_protocol.codes import CLOSE_CODES, CODES
from vespid_protocol.frames import V2_FIELDS, V2_FRAMES, AgentFrame, Frame, GatewayFrame, wire_type
from vespid_protocol.machine import diagram, markdown

_BLOCK = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with every made part made anew. Raises KeyError for a part that nobody makes."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_PARTS[block['name']]()}\n{block[3]}", page)


def _frames(kinds: tuple[type[Frame], ...]) -> str:
    lines = ["| frame | fields | meaning |", "|---|---|---|"]
    for kind in kinds:
        fields = msgspec.structs.fields(kind)
        later = V2_FIELDS.get(kind, {})
        names = [f"`{f.encode_name}{'' if f.required else '?'}`{' (v2)' if f.name in later else ''}" for f in fields]
        layer = " (v2)" if kind in V2_FRAMES else ""
        meaning = " ".join((kind.__doc__ or "").split()).removeprefix("v2: ").split(" Its `repr`")[0]
        meaning = meaning[:1].upper() + meaning[1:]
        lines.append(f"| `{wire_type(kind)}`{layer} | {', '.join(names)} | {meaning} |")
    return "\n".join(lines)


def _picture(text: str) -> str:
    return f"```mermaid\n{text}\n```"


def _codes() -> str:
    lines = ["| code | retry helps | meaning |", "|---|---|---|"]
    for code, entry in CODES.items():
        name = f"{code}:<{entry.suffix}>" if entry.suffix else code.value
        lines.append(f"| `{name}` | {'yes' if entry.retryable else 'no'} | {entry.description} |")
    return "\n".join(lines)


def _close_codes() -> str:
    lines = ["| close code | meaning |", "|---|---|"]
    return "\n".join(lines + [f"| {code.value} | {meaning} |" for code, meaning in CLOSE_CODES.items()])


_PARTS: dict[str, Callable[[], str]] = {
    "client-frames": lambda: _frames(get_args(ClientFrame)),
    "server-frames": lambda: _frames(get_args(ServerFrame)),
    "agent-frames": lambda: _frames(get_args(AgentFrame)),
    "gateway-frames": lambda: _frames(get_args(GatewayFrame)),
    "connection-picture": lambda: _picture(diagram(connection.ROWS, connection.State.AUTHENTICATING)),
    "connection-table": lambda: markdown(connection.ROWS),
    "lease-picture": lambda: _picture(diagram(lease.ROWS, lease.State.NONE)),
    "lease-table": lambda: markdown(lease.ROWS),
    "journal-picture": lambda: _picture(diagram(journal.ROWS, journal.State.NONE)),
    "journal-table": lambda: markdown(journal.ROWS),
    "codes": _codes,
    "close-codes": _close_codes,
}

if __name__ == "__main__":
    sys.stdout.write(render(sys.stdin.read()))
