"""`approval` in workflows: what is read, and what is refused with a word on how to mend it."""

from __future__ import annotations

import pytest

from vespid.domain.workflow import WorkflowInvalid, parse


def fields(document):
    with pytest.raises(WorkflowInvalid) as refused:
        parse(document)
    return refused.value.details()["fieldErrors"]


def test_a_nodes_approval_has_defaults(kit):
    node = parse(kit.listed(kit.shell("a", approval={}))).plan.by_id["a"]
    assert node.approval is not None
    assert (node.approval.by, node.approval.timeout_ms) == ("admin", 86_400_000)
    assert parse(kit.listed(kit.shell("a"))).plan.by_id["a"].approval is None


def test_tools_approvals_are_read_by_id_and_glob(kit):
    node = kit.agent(
        "a", ("memory.get", "connector.github.issue.create"), tool_approval={"connector.*": {"by": "owner"}}
    )
    read = parse(kit.listed(node)).plan.by_id["a"]
    assert read.tool_approvals["connector.*"].by == "owner"
    assert read.tools_allow == ("memory.get", "connector.github.issue.create")


@pytest.mark.parametrize(
    ("approval", "at"),
    [
        ({"by": "anybody"}, "dsl.nodes.0.approval.by"),
        ({"timeoutMs": 999}, "dsl.nodes.0.approval.timeoutMs"),
        ({"timeoutMs": 30 * 86_400_000 + 1}, "dsl.nodes.0.approval.timeoutMs"),
        ("admin", "dsl.nodes.0.approval"),
    ],
)
def test_a_bad_approval_is_named(kit, approval, at):
    assert list(fields(kit.listed(kit.shell("a", approval=approval)))) == [at]


@pytest.mark.parametrize("kind", ["condition", "join"])
def test_what_does_nothing_outside_needs_no_approval(kit, kind):
    node = {**getattr(kit, kind)("c"), "approval": {}}
    found = fields(kit.graph([node]))
    assert list(found) == ["dsl.graph.nodes.c.approval"]
    assert "on the node behind it" in found["dsl.graph.nodes.c.approval"][0]


def test_a_rule_that_is_for_no_allowed_tool_is_refused(kit):
    found = fields(kit.listed(kit.agent("a", ("memory.get",), tool_approval={"memory.*": {}, "shell.run": {}})))
    assert list(found) == ["dsl.nodes.0.config.tools.approval.shell.run"]
    assert "tools.allow" in found["dsl.nodes.0.config.tools.approval.shell.run"][0]


@pytest.mark.parametrize("engine", ["claude.agent-sdk.v1", "codex.sdk.v1", "vespid.echo.v1"])
def test_tools_approvals_are_for_our_own_loop(kit, engine):
    node = kit.agent("a", ("memory.get",), tool_approval={"memory.get": {}}, config={"engine": {"id": engine}})
    found = fields(kit.listed(node))
    assert "vespid.loop.v1" in found["dsl.nodes.0.config.tools.approval"][0]
    assert "beside `config`" in found["dsl.nodes.0.config.tools.approval"][0]
    whole = kit.agent("a", ("memory.get",), approval={}, config={"engine": {"id": engine}})
    assert parse(kit.listed(whole)).plan.by_id["a"].approval is not None
