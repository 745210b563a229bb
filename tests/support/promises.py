"""Counts the tests of each promise: `make guarantees` ends with a line per promise, `P3 12 passed`."""

import re
from collections import Counter, defaultdict

import pytest

_PROMISE = "promise"
_OUTCOMES = ("passed", "failed", "skipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Properties travel to the process that prints, markers do not.
    for item in items:
        for marker in item.iter_markers(_PROMISE):
            item.user_properties.extend((_PROMISE, promise) for promise in marker.args)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("markexpr", "") != _PROMISE:
        return
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in (*_OUTCOMES, "error"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, promise in getattr(report, "user_properties", ()):
                if name == _PROMISE:
                    counts[str(promise)]["failed" if outcome == "error" else outcome] += 1
    terminalreporter.section("promises")
    for promise in sorted(counts, key=_number):
        parts = [f"{counts[promise][outcome]} {outcome}" for outcome in _OUTCOMES if counts[promise][outcome]]
        terminalreporter.write_line(f"{promise} {', '.join(parts)}")


def _number(promise: str) -> int:
    digits = re.search(r"\d+", promise)
    return int(digits.group()) if digits else 0
