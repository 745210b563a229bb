"""People are asked before a node runs, and in the middle of an agent's work: the run machine, rule by rule."""

from __future__ import annotations

import hashlib
import json

import pytest

from vespid.domain.approval import CALLS_MAX, WHAT_MAX_CHARS
from vespid.domain.policy import Backoff, OrgSettings, RunPolicy, ToolSettings
from vespid.domain.run import NodeCancelled, NodeSucceeded

ONCE = RunPolicy(run_retry=Backoff(1, 1_000))
TOOLS = {"memory.*": {"by": "member"}, "memory.write": {"by": "owner", "timeoutMs": 60_000}}


def call(n=0, tool="memory.get", **arguments):
    return {"n": n, "tool": tool, "arguments": arguments, "digest": f"{n:064x}"}


def asked(run, node_id="a"):
    return run.execution(node_id).asks


@pytest.fixture
def gated(kit):
    """A list of one shell node that an admin has to allow, and one behind it."""

    def make(**more):
        policy = more.pop("policy", RunPolicy())
        given = more.pop("given", None)
        return kit.run(
            kit.listed(kit.shell("a", approval={}, script="echo {{ input.x | default(1) }}", **more), kit.shell("b")),
            policy=policy,
            input=given,
        )

    return make


@pytest.fixture
def agent(kit):
    """A run of one agent whose tools people have to allow."""

    def make(**more):
        policy = more.pop("policy", ONCE)
        allow = ("memory.get", "memory.write", "shell.run")
        return kit.run(kit.listed(kit.agent("a", allow, tool_approval=TOOLS, **more)), policy=policy)

    return make


# --- a node ----------------------------------------------------------------------------------------------------------


def test_a_node_is_dispatched_after_it_was_allowed_and_says_so(gated):
    run = gated()
    run.start()
    assert run.execution("a").placement == "person"
    assert run.state.nodes["a"].status == "asking"
    run.decide("a", "approved")
    run.succeed("a", {})
    assert run.said()[:7] == [
        "run_started",
        "node_started a",
        "node_waiting a",
        "approval_requested a",
        "node_dispatched a",
        "remote_result_received a",
        "node_succeeded a",
    ]
    waiting, requested = run.events[2:4]
    assert waiting.payload == {"reason": "APPROVAL", "requestId": run.execution("a").request_id[:-1] + "1"}
    assert requested.payload["by"] == "admin"
    assert requested.payload["timeoutMs"] == 86_400_000
    assert [execution.request_id[-2:] for execution in run.executions.values()] == [":1", ":2", ":1"]


def test_what_is_asked_is_exactly_what_is_dispatched_and_the_hash_is_of_it(gated):
    run = gated(given={"x": "hello"})
    run.start()
    (ask,) = asked(run)
    assert ask.hash == hashlib.sha256(ask.what.encode()).hexdigest()
    what = json.loads(ask.what)
    assert ask.what == json.dumps(what, sort_keys=True, separators=(",", ":"))
    run.decide("a", "approved")
    dispatched = run.execution("a")
    payload = {key: value for key, value in dispatched.payload.items() if key != "attemptCount"}
    assert what["execution"]["payload"] == payload
    assert payload["node"]["config"]["task"]["script"] == "echo hello"
    assert (what["execution"]["placement"], what["execution"]["timeoutMs"]) == ("executor", 60_000)


def test_secrets_are_shown_as_references(kit):
    secret = kit.shell("a", approval={}, script="deploy {{secrets.token}}")
    run = kit.run(kit.listed(secret), policy=RunPolicy(settings=OrgSettings(tools=ToolSettings(True, True))))
    run.start()
    what = json.loads(asked(run)[0].what)["execution"]
    assert what["payload"]["node"]["config"]["task"]["script"] == "deploy {{secrets.token}}"
    assert what["secretRefs"] == ["token"]


def test_a_denied_node_fails_with_the_comment_and_the_run_with_it(gated):
    run = gated()
    run.start()
    run.decide("a", "denied", comment="not on a Friday")
    failed = run.events[-2]
    assert (failed.event_type, failed.message) == ("node_failed", "APPROVAL_DENIED")
    assert failed.payload == {"code": "APPROVAL_DENIED", "message": "not on a Friday"}
    assert (run.state.status, run.state.error, run.state.error_message) == (
        "failed",
        "APPROVAL_DENIED",
        "not on a Friday",
    )
    assert run.live == {}


@pytest.mark.parametrize("retry", [None, {"maxAttempts": 3}])
def test_a_node_that_nobody_allowed_in_time_fails_and_is_not_retried(gated, retry):
    run = gated(**({} if retry is None else {"retry": retry}))
    run.start()
    run.decide("a", "expired")
    assert (run.state.status, run.state.error) == ("failed", "APPROVAL_EXPIRED")


def test_a_retry_of_the_same_thing_needs_no_second_approval(gated):
    run = gated(retry={"maxAttempts": 2, "backoffMs": 10})
    run.start()
    run.decide("a", "approved")
    run.fail("a")
    run.wait_for_timer()
    assert run.execution("a").kind == "agent.execute"
    assert [execution.kind for execution in run.executions.values()].count("approval") == 1
    run.succeed("a")
    assert list(run.live) == ["b"]


def test_a_retry_with_the_runs_next_attempt_needs_none_either(gated):
    run = gated(policy=RunPolicy(run_retry=Backoff(2, 1_000)))
    run.start()
    run.decide("a", "approved")
    run.fail("a")
    run.wait_for_timer()
    assert run.execution("a").kind == "agent.execute"
    assert run.state.attempt_count == 2


def test_what_would_run_now_and_was_not_allowed_is_asked_anew(gated):
    run = gated(retry={"maxAttempts": 2, "backoffMs": 10})
    run.start()
    run.decide("a", "approved")
    run.fail("a")
    run.policy = RunPolicy(node_timeout_ms=61_000)
    run.wait_for_timer()
    assert run.execution("a").kind == "approval"
    first, second = (execution.asks[0] for execution in run.executions.values() if execution.asks)
    assert first.hash != second.hash
    run.decide("a", "approved")
    assert run.execution("a").timeout_ms == 61_000


def test_what_changed_between_the_question_and_the_answer_is_asked_anew(gated):
    run = gated()
    run.start()
    run.policy = RunPolicy(node_timeout_ms=61_000)
    run.decide("a", "approved")
    assert run.execution("a").kind == "approval"
    assert run.state.nodes["a"].status == "asking"


def test_an_approval_uses_no_budget(gated):
    run = gated(retry={"maxAttempts": 2, "backoffMs": 10})
    run.start()
    run.decide("a", "approved")
    assert run.state.nodes["a"].retries_used == 0
    run.fail("a")
    run.wait_for_timer()
    run.succeed("a")
    assert "node_failed a" in run.said()
    assert list(run.live) == ["b"]


def test_a_cancel_withdraws_the_question_and_a_late_answer_starts_nothing(gated):
    run = gated()
    run.start()
    answer = {"kind": "node", "decided": [{"id": "x", "hash": asked(run)[0].hash, "decision": "approved"}]}
    run.cancel()
    assert run.cancelled == ["a"]
    assert run.state.nodes["a"].status == "withdrawing"
    run.apply(NodeSucceeded("a", run.live.pop("a"), answer))
    assert (run.state.status, run.state.nodes["a"].status) == ("cancelled", "cancelled")
    assert [execution.kind for execution in run.executions.values()] == ["approval"]


def test_a_failing_sibling_withdraws_the_question(kit):
    run = kit.run(kit.graph([kit.shell("a", approval={}), kit.shell("b")]), policy=ONCE)
    run.start()
    run.fail("b", "SECRET_NOT_FOUND")
    assert run.cancelled == ["a"]
    run.confirm_cancel("a")
    assert run.state.status == "failed"


def test_an_approval_that_somebody_cancels_by_its_request_ends_the_node(gated):
    run = gated()
    run.start()
    run.apply(NodeCancelled("a", run.live.pop("a")))
    assert (run.state.status, run.state.error) == ("failed", "NODE_EXECUTION_CANCELLED")


def test_what_people_decided_is_nobodys_output(kit):
    run = kit.run(kit.listed(kit.shell("a", approval={}), kit.shell("b", script="{{ steps.a.output.x }}")))
    run.start()
    run.decide("a", "approved")
    run.succeed("a", {"x": "echo 7"})
    assert run.execution("b").payload["node"]["config"]["task"]["script"] == "echo 7"


def test_cloud_nodes_are_asked_for_too(kit):
    node = {"id": "h", "type": "http.request", "approval": {"by": "owner"}}
    run = kit.run(kit.listed({**node, "config": {"method": "get", "url": "http://x"}}))
    run.start()
    assert run.execution("h").asks[0].by == "owner"
    run.decide("h", "approved")
    assert (run.execution("h").placement, run.execution("h").kind) == ("cloud", "http.request")


# --- calls of an agent's tools ---------------------------------------------------------------------------------------


def test_a_parked_agent_goes_on_whatever_was_decided_and_has_not_failed(agent):
    run = agent()
    run.start()
    run.park("a", call(0, path="x"), call(1, "memory.write", text="y"))
    assert [(ask.tool, ask.by, ask.timeout_ms) for ask in asked(run)] == [
        ("memory.get", "member", 86_400_000),
        ("memory.write", "owner", 60_000),
    ]
    assert run.execution("a").schedule.max_wait_ms == 86_400_000
    run.decide("a", "approved", "denied")
    assert (run.execution("a").kind, run.execution("a").payload["attemptCount"]) == ("agent.run", 3)
    run.succeed("a", {"text": "done"})
    assert run.state.status == "succeeded"
    assert "node_failed a" not in run.said()
    assert run.said().count("node_started a") == 1


def test_what_is_shown_of_a_call_is_its_tool_and_arguments_and_the_hash_is_of_them(agent):
    run = agent()
    run.start()
    run.park("a", call(3, path="x"))
    (ask,) = asked(run)
    what = json.loads(ask.what)
    assert (what["kind"], what["tool"], what["arguments"], what["n"]) == ("tool", "memory.get", {"path": "x"}, 3)
    assert ask.hash == hashlib.sha256(ask.what.encode()).hexdigest()


def test_rounds_of_approvals_use_no_budget(agent):
    run = agent(retry={"maxAttempts": 1})
    run.start()
    for n in range(5):
        run.park("a", call(n))
        run.decide("a", "approved")
    assert run.state.nodes["a"].retries_used == 0
    run.succeed("a")
    assert run.state.status == "succeeded"


def test_an_agent_goes_on_when_nobody_decided_in_time(agent):
    run = agent()
    run.start()
    run.park("a", call(0))
    run.decide("a", "expired")
    assert run.execution("a").kind == "agent.run"
    assert run.state.nodes["a"].status == "live"


def test_the_loop_is_in_no_event_and_not_in_the_cursor(agent):
    run = agent()
    run.start()
    run.park("a", call(0), loop={"canary": "x" * 1_000})
    assert b"canary" not in run.stored
    assert len(run.stored) < 200
    assert "canary" not in str([event.payload for event in run.events])
    run.decide("a", "approved")
    assert b"canary" not in run.stored
    # Nor is one that an agent left which was lost.
    run.fail("a", "AGENT_DISCONNECTED", output={"loop": {"canary": 1}})
    assert "node_failed a" in run.said()
    assert "canary" not in str([event.payload for event in run.events])


def test_a_node_and_its_tools_are_asked_for_each_by_itself(agent):
    run = agent(approval={"by": "owner"})
    run.start()
    run.decide("a", "approved")
    run.park("a", call(0))
    assert asked(run)[0].kind == "tool"
    run.decide("a", "approved")
    # With the loop behind it the node is still what was allowed.
    assert run.execution("a").kind == "agent.run"


@pytest.mark.parametrize(
    "output",
    [
        None,
        {},
        {"loop": {"a": 1}},
        {"loop": {"a": 1}, "approvals": []},
        {"loop": {"a": 1}, "approvals": [call() | {"digest": "short"}]},
        {"loop": {"a": 1}, "approvals": [call() | {"arguments": "rm"}]},
        {"loop": {"a": 1}, "approvals": [call() | {"n": -1}]},
        {"loop": None, "approvals": [call()]},
        {"approvals": [call()]},
        {"loop": {"a": 1}, "approvals": [call(1), call(1)]},
        {"loop": {"a": 1}, "approvals": [call(n) for n in range(CALLS_MAX + 1)]},
        {"loop": {"a": 1}, "approvals": [call(0, text="x" * WHAT_MAX_CHARS)]},
        # Nobody is asked for it: shell.run has no rule, memory.search is not allowed at all.
        {"loop": {"a": 1}, "approvals": [call(0, "shell.run")]},
        {"loop": {"a": 1}, "approvals": [call(0, "memory.search")]},
        "text",
        [[[]]],
    ],
)
def test_what_an_agent_says_is_not_believed(agent, output):
    run = agent(policy=RunPolicy())
    run.start()
    run.fail("a", "APPROVAL_REQUIRED", output=output)
    assert (run.state.status, run.state.error) == ("failed", "APPROVAL_REQUIRED")
    assert run.state.error_message
    assert len(run.state.error_message) < 500


def test_who_may_decide_is_the_nodes_to_say(agent):
    run = agent()
    run.start()
    run.park("a", call(0, "memory.write") | {"by": "member", "timeoutMs": 1})
    assert (asked(run)[0].by, asked(run)[0].timeout_ms) == ("owner", 60_000)


def test_a_node_without_rules_cannot_make_people_be_asked(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.start()
    run.fail("a", "APPROVAL_REQUIRED", output={"loop": {"a": 1}, "approvals": [call()]})
    assert (run.state.status, run.state.error) == ("failed", "APPROVAL_REQUIRED")


def test_ids_of_approvals_are_uuids_of_their_time_and_never_the_same(agent):
    run = agent()
    run.start()
    run.park("a", call(0), call(1))
    first, second = (ask.id for ask in asked(run))
    assert first != second
    assert first[14] == second[14] == "7"
    assert int(first.replace("-", "")[:12], 16) == run.now_ms
