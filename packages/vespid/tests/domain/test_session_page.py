"""`docs/sessions.md` says what the code does: picture and table of a turn are made here, from the machine.

After a change: `.venv/bin/python packages/vespid/tests/domain/test_session_page.py` writes them anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from vespid.domain import turn
from vespid_protocol.machine import diagram, markdown

PAGE = Path(__file__).resolve().parents[4] / "docs" / "sessions.md"
BLOCK = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PARTS = {
    "turn-picture": lambda: f"```mermaid\n{diagram(turn.ROWS, turn.State.NONE)}\n```",
    "turn-table": lambda: markdown(turn.ROWS),
}


def rendered(page: str) -> str:
    return BLOCK.sub(lambda found: found[1] + PARTS[found["name"]]() + "\n" + found[3], page)


def test_made_parts_of_the_page_are_up_to_date() -> None:
    page = PAGE.read_text("utf-8")
    assert {found["name"] for found in BLOCK.finditer(page)} == set(PARTS)
    assert rendered(page) == page, "run: .venv/bin/python packages/vespid/tests/domain/test_session_page.py"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")
