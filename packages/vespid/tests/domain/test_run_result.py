"""`run.output`, made from cursor and outputs."""

from __future__ import annotations

import msgspec

from vespid.domain.run_result import run_output


def test_queued_run_has_none(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    assert run_output(run.plan, run.state, {}) is None


def test_finished_run_shows_its_steps_in_order(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.condition("c"), kit.shell("b")), input={"go": False})
    run.start()
    run.succeed("a", {"x": 1})
    assert run_output(run.plan, run.state, {"a": msgspec.Raw(b'{"x":1}')}) == {
        "status": "succeeded",
        "steps": [
            {"nodeId": "a", "nodeType": "agent.execute", "status": "succeeded", "output": msgspec.Raw(b'{"x":1}')},
            {
                "nodeId": "c",
                "nodeType": "condition",
                "status": "succeeded",
                "output": {"result": False, "explain": "$.input.go (false) eq true is false"},
            },
            {"nodeId": "b", "nodeType": "agent.execute", "status": "skipped"},
        ],
        "output": {"completedNodeCount": 2, "failedNodeId": None},
    }


def test_failed_run_names_the_node_and_its_error(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b")))
    run.start()
    run.fail("a", "SECRET_NOT_FOUND", message="no such secret")
    assert run_output(run.plan, run.state, {}) == {
        "status": "failed",
        "steps": [
            {
                "nodeId": "a",
                "nodeType": "agent.execute",
                "status": "failed",
                "error": "SECRET_NOT_FOUND",
                "errorMessage": "no such secret",
            }
        ],
        "output": {"completedNodeCount": 0, "failedNodeId": "a"},
    }


def test_running_and_retrying_nodes_say_so(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b")]))
    run.start()
    run.fail("b")
    steps = run_output(run.plan, run.state, {})["steps"]
    assert [step["status"] for step in steps] == ["running", "retrying"]
