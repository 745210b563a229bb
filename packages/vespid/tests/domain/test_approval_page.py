"""The workflows on `docs/approvals.md` are workflows, and its limits are the code's."""

import re
from pathlib import Path

from vespid.control.approvals import COMMENT_MAX_CHARS
from vespid.domain.approval import CALLS_MAX, WHAT_MAX_CHARS
from vespid.domain.workflow import parse

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "approvals.md").read_text()


def test_documents_on_the_page_are_workflows():
    documents = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(documents) == 2
    plans = [parse(document.encode()).plan for document in documents]
    assert plans[0].by_id["deploy"].approval is not None
    assert plans[1].by_id["triage"].tool_approvals


def test_limits_on_the_page_are_the_codes():
    for limit in (CALLS_MAX, WHAT_MAX_CHARS, COMMENT_MAX_CHARS):
        assert f"| {limit:,}" in PAGE
