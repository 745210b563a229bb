"""`docs/engines.md` says what the loop does: its picture and table are made here, from the machine.

After a change: `.venv/bin/python packages/vespid-runtime/tests/loop/test_engines_page.py` writes them anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from vespid_protocol.machine import diagram, markdown
from vespid_runtime.loop import answer, calls, machine, prior
from vespid_runtime.loop.task import LoopLimits

PAGE = Path(__file__).resolve().parents[4] / "docs" / "engines.md"
BLOCK = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PARTS = {
    "loop-picture": lambda: f"```mermaid\n{diagram(machine.ROWS, machine.State.READY)}\n```",
    "loop-table": lambda: markdown(machine.ROWS),
}


def rendered(page: str) -> str:
    return BLOCK.sub(lambda found: found[1] + PARTS[found["name"]]() + "\n" + found[3], page)


def test_made_parts_of_the_page_are_up_to_date() -> None:
    page = PAGE.read_text("utf-8")
    assert {found["name"] for found in BLOCK.finditer(page)} >= set(PARTS)
    assert rendered(page) == page, "run: .venv/bin/python packages/vespid-runtime/tests/loop/test_engines_page.py"


def test_limits_of_the_page_are_those_of_the_code() -> None:
    page, limits = PAGE.read_text("utf-8"), LoopLimits()
    for name, value in {
        "`maxTurns`": limits.max_turns,
        "`maxToolCalls`": limits.max_tool_calls,
        "`timeoutMs`": limits.timeout_ms,
        "`maxOutputChars`": limits.max_output_chars,
        "`maxRuntimeChars`": limits.max_runtime_chars,
    }.items():
        assert f"| {name} | {value} |" in page
    assert f"| | {limits.model_timeout_ms} | one call of the model" in page
    assert f"| | {limits.max_result_chars} | one tool's result" in page
    assert f"{calls.ARGUMENTS_MAX_CHARS:,} characters" in page
    assert f"{prior.ARGUMENTS_SHOWN_MAX_CHARS:,} characters" in page
    assert (calls.REPEATS_CARRIED_OUT, calls.REPEATS_MAX, answer.SILENCES_MAX, answer.REPAIRS_MAX) == (4, 6, 2, 2)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")
