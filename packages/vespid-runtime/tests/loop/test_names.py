"""Names of tools as models know them."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from vespid_runtime.loop.names import is_allowed, name_tools


def test_dots_become_underscores() -> None:
    assert name_tools(["connector.github.issue.create"]) == {
        "connector.github.issue.create": "connector_github_issue_create"
    }


def test_tools_that_would_share_a_name_do_not() -> None:
    names = name_tools(["mcp.a.b", "mcp.a_b", "mcp_a_b"])
    assert names["mcp_a_b"] == "mcp_a_b"
    assert len(set(names.values())) == 3


@given(st.lists(st.text(min_size=1, max_size=80) | st.text("a._", min_size=1, max_size=4), unique=True, max_size=20))
def test_every_name_is_usable_and_unique(ids: list[str]) -> None:
    names = name_tools(ids)
    assert len(set(names.values())) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names.values())


def test_kind_of_tools_is_allowed_by_its_star_and_nothing_else() -> None:
    assert is_allowed("memory.search", ["memory.*"])
    assert is_allowed("shell.run", ["shell.run"])
    assert not is_allowed("memory", ["memory.*"])
    assert not is_allowed("memoryx.search", ["memory.*"])
    assert not is_allowed("shell.run.more", ["shell.run"])
    assert not is_allowed("shell.run", ["*", "sh*", "shell.ru?", "shell.*"])
