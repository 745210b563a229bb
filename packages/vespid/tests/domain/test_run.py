"""The run machine, rule by rule."""

from __future__ import annotations

import msgspec
import pytest

from vespid.domain.policy import Backoff, OrgSettings, RunPolicy, ToolSettings
from vespid.domain.run import (
    CancelRequested,
    NodeFailed,
    NodeSucceeded,
    RunContext,
    RunState,
    Start,
    TimerDue,
    step,
)


def last(run, event_type):
    return [event for event in run.events if event.event_type == event_type][-1]


# --- the happy path --------------------------------------------------------------------------------------------------


def test_one_remote_node_says_exactly_the_events_of_the_contract(kit):
    run = kit.run(kit.listed(kit.shell("n1")))
    run.start()
    run.succeed("n1", {"exitCode": 0})
    assert run.said() == [
        "run_started",
        "node_started n1",
        "node_dispatched n1",
        "remote_result_received n1",
        "node_succeeded n1",
        "run_succeeded",
    ]
    assert [event.level for event in run.events] == ["info"] * 6
    assert run.events[0].payload == {
        "runId": "01900000-0000-7000-8000-000000000001",
        "workflowId": "workflow",
        "orgId": "org",
        "attemptCount": 1,
    }
    assert run.events[2].payload == {
        "requestId": "01900000-0000-7000-8000-000000000001:n1:1",
        "kind": "agent.execute",
    }
    assert run.events[-1].payload == {"completedNodeCount": 1}
    assert run.state.status == "succeeded"


def test_cloud_nodes_are_dispatched_but_have_no_remote_result(kit):
    run = kit.run(kit.listed({"id": "h", "type": "http.request", "config": {"method": "get", "url": "http://x"}}))
    run.start()
    assert run.execution("h").placement == "cloud"
    run.succeed("h", {"status": 200})
    assert run.said()[2:] == ["node_dispatched h", "node_succeeded h", "run_succeeded"]


def test_list_runs_top_to_bottom_one_at_a_time(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b")))
    run.start()
    assert list(run.live) == ["a"]
    run.succeed("a")
    assert list(run.live) == ["b"]
    run.succeed("b")
    assert run.state.status == "succeeded"
    assert run.state.completed_node_count == 2


def test_branches_are_dispatched_side_by_side_and_the_join_waits_for_both(kit):
    document = kit.graph(
        [kit.shell("a"), kit.shell("b"), kit.shell("c"), kit.join("j"), kit.shell("z")],
        "a>b",
        "a>c",
        "b>j",
        "c>j",
        "j>z",
    )
    run = kit.run(document)
    run.start()
    run.succeed("a")
    assert set(run.live) == {"b", "c"}
    run.succeed("c")
    assert set(run.live) == {"b"}
    run.succeed("b")
    assert last(run, "node_succeeded").payload == {"joined": True, "requiredIncoming": 2, "satisfiedIncoming": 2}
    run.succeed("z")
    assert run.state.status == "succeeded"


def test_output_of_an_earlier_node_is_filled_into_a_later_one(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b"), kit.shell("c", script="echo {{ steps.a.output.x }}")))
    run.start()
    run.succeed("a", {"x": "hello"})
    run.succeed("b")
    assert run.execution("c").payload["node"]["config"]["task"]["script"] == "echo hello"
    assert run.loads == [{"a"}]


def test_step_that_names_no_output_loads_none(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b", script="echo {{ steps.a.output.x }}"), kit.shell("c")))
    run.start()
    run.succeed("a", {"x": 1})
    run.succeed("b")
    assert run.loads == []


def test_long_output_is_cut_in_the_events(kit):
    run = kit.run(kit.listed(kit.shell("a")), policy=RunPolicy(event_payload_max_chars=10))
    run.start()
    run.succeed("a", "é" * 20)
    assert last(run, "node_succeeded").payload == {
        "truncated": True,
        "preview": '"' + "é" * 9,
        "originalLength": 22,
    }


# --- conditions ------------------------------------------------------------------------------------------------------


def test_false_condition_in_a_list_skips_the_rest_and_the_run_succeeds(kit):
    run = kit.run(kit.listed(kit.condition("c"), kit.shell("a"), kit.shell("b")), input={"go": False})
    run.start()
    assert run.said() == [
        "run_started",
        "node_started c",
        "node_succeeded c",
        "node_skipped a",
        "node_skipped b",
        "run_succeeded",
    ]
    assert run.events[2].payload["result"] is False
    assert run.events[3].payload == {"reasonCode": "CONDITION_NOT_MET", "blockers": ["c"]}
    assert run.events[4].payload == {"reasonCode": "UPSTREAM_SKIPPED", "blockers": ["a"]}
    assert run.state.status == "succeeded"


def test_true_condition_in_a_list_goes_on(kit):
    run = kit.run(kit.listed(kit.condition("c"), kit.shell("a")), input={"go": True})
    run.start()
    assert list(run.live) == ["a"]


@pytest.mark.parametrize(("go", "taken", "skipped"), [(True, "yes", "no"), (False, "no", "yes")])
def test_graph_takes_one_side_of_a_condition_and_merges_behind_it(kit, go, taken, skipped):
    document = kit.graph(
        [kit.condition("c"), kit.shell("yes"), kit.shell("no"), kit.shell("after")],
        "c+yes",
        "c-no",
        "yes>after",
        "no>after",
    )
    run = kit.run(document, input={"go": go})
    run.start()
    assert list(run.live) == [taken]
    assert f"node_skipped {skipped}" in run.said()
    run.succeed(taken)
    run.succeed("after")
    assert run.state.status == "succeeded"


def test_join_is_skipped_when_one_of_its_branches_was(kit):
    document = kit.graph(
        [kit.condition("c"), kit.shell("yes"), kit.shell("other"), kit.join("j")], "c+yes", "yes>j", "other>j"
    )
    run = kit.run(document, input={"go": False})
    run.start()
    run.succeed("other")
    assert last(run, "node_skipped").payload == {"reasonCode": "UPSTREAM_SKIPPED", "blockers": ["yes"]}
    assert run.state.status == "succeeded"


def test_condition_over_a_remote_output_asks_for_that_output(kit):
    document = kit.listed(
        kit.shell("a"), kit.shell("b"), kit.condition("c", "$.steps.a.output.n", "gt", 3), kit.shell("d")
    )
    run = kit.run(document)
    run.start()
    run.succeed("a", {"n": 4})
    run.succeed("b")
    assert run.loads == [{"a"}]
    assert list(run.live) == ["d"]


# --- retries ---------------------------------------------------------------------------------------------------------


def test_run_budget_retries_the_failed_node_with_doubled_pauses_and_then_fails(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b")))
    run.start()
    run.succeed("a")
    for attempt, pause in ((1, 5_000), (2, 10_000)):
        run.fail("b")
        assert run.state.next_attempt_at == run.now_ms + pause
        assert last(run, "run_retried").payload == {
            "attemptCount": attempt,
            "maxAttempts": 3,
            "error": "NODE_EXECUTION_FAILED",
        }
        assert last(run, "run_retried").level == "warn"
        run.wait_for_timer()
        assert run.state.attempt_count == attempt + 1
        assert run.execution("b").request_id.endswith(f":b:{attempt + 1}")
    run.fail("b", message="exit 1")
    assert run.state.status == "failed"
    assert run.said()[-2:] == ["node_failed b", "run_failed"]
    assert last(run, "run_failed").message == "NODE_EXECUTION_FAILED"
    assert run.said().count("node_started a") == 1
    assert run.said().count("run_started") == 1


def test_pauses_of_the_run_are_capped_at_a_minute(kit):
    run = kit.run(kit.listed(kit.shell("a")), policy=RunPolicy(run_retry=Backoff(9, 5_000)))
    run.start()
    for _ in range(7):
        run.fail("a")
        pause = run.state.next_due_at - run.now_ms
        run.wait_for_timer()
    assert pause == 60_000


def test_node_with_its_own_retry_uses_it_and_then_fails_the_run(kit):
    run = kit.run(kit.listed(kit.shell("a", retry={"maxAttempts": 2, "backoffMs": 100})))
    run.start()
    run.fail("a")
    assert last(run, "node_retried").payload == {
        "attemptCount": 1,
        "maxAttempts": 2,
        "error": "NODE_EXECUTION_FAILED",
    }
    assert run.state.next_due_at == run.now_ms + 100
    assert run.state.next_attempt_at is None
    run.wait_for_timer()
    run.fail("a")
    assert run.state.status == "failed"
    assert "run_retried" not in run.said()
    assert run.state.attempt_count == 1


@pytest.mark.parametrize("code", ["SECRET_NOT_FOUND", "INVALID_EXECUTE_PAYLOAD", "NO_AGENT_AVAILABLE", "WHATEVER"])
def test_errors_that_a_retry_cannot_mend_fail_at_once(kit, code):
    run = kit.run(kit.listed(kit.shell("a", retry={"maxAttempts": 5, "backoffMs": 1})))
    run.start()
    run.fail("a", code)
    assert run.state.status == "failed"
    assert run.state.error == code
    assert len(run.executions) == 1


def test_refusal_of_the_infrastructure_uses_no_budget_and_grows_the_attempt(kit):
    run = kit.run(kit.listed(kit.shell("a", retry={"maxAttempts": 2, "backoffMs": 1})))
    run.start()
    for _ in range(5):
        run.fail("a", "EXECUTOR_OVER_CAPACITY")
        run.wait_for_timer()
    assert run.state.nodes["a"].attempt == 6
    assert run.state.nodes["a"].retries_used == 0
    assert "node_failed a" not in run.said()
    run.fail("a")
    run.wait_for_timer()
    run.succeed("a")
    assert run.state.status == "succeeded"


def test_refusals_end_with_the_nodes_longest_wait(kit):
    config = {"execution": {"mode": "executor", "schedule": {"maxWaitMs": 20_000}}}
    run = kit.run(kit.listed(kit.shell("a", config=config)))
    run.start()
    while run.state.status == "running":
        run.fail("a", "EXECUTOR_OVER_CAPACITY")
        if run.live or run.state.next_due_at:
            run.wait_for_timer()
    assert run.state.error == "EXECUTOR_OVER_CAPACITY"
    assert run.now_ms - 1_000_000 >= 20_000


def test_two_nodes_that_fail_share_one_attempt_of_the_run(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b")]))
    run.start()
    run.fail("a")
    run.now_ms += 1_000
    run.fail("b")
    assert run.said().count("run_retried") == 1
    run.wait_for_timer()
    assert run.state.attempt_count == 2
    assert set(run.live) == {"a", "b"}


def test_timer_that_comes_early_changes_nothing(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.start()
    run.fail("a")
    before = run.stored
    transition = run.apply(TimerDue(run.state.next_due_at - 1))
    assert transition.effects == []
    assert run.stored == before


def test_node_keeps_running_beside_the_retry_of_another(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b"), kit.join("j")], "a>j", "b>j"))
    run.start()
    run.fail("a")
    run.succeed("b")
    run.wait_for_timer()
    run.succeed("a")
    assert run.state.status == "succeeded"
    assert run.said().count("node_dispatched b") == 1


# --- failure beside running branches ---------------------------------------------------------------------------------


def test_failed_branch_cancels_its_siblings_and_the_run_fails_with_the_last_of_them(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b"), kit.join("j")], "a>j", "b>j"))
    run.start()
    run.fail("a", "SECRET_NOT_FOUND")
    assert run.cancelled == ["b"]
    assert run.state.status == "running"
    assert run.state.next_due_at is None
    run.confirm_cancel("b")
    assert run.state.status == "failed"
    assert run.said()[-3:] == ["node_failed a", "node_failed b", "run_failed"]
    assert last(run, "run_failed").payload["failedNodeId"] == "a"


def test_join_that_does_not_fail_fast_lets_the_siblings_finish(kit):
    document = kit.graph(
        [kit.shell("a"), kit.shell("b"), kit.shell("b2"), kit.join("j", failFast=False), kit.shell("z")],
        "a>j",
        "b>b2",
        "b2>j",
        "j>z",
    )
    run = kit.run(document)
    run.start()
    run.fail("a", "SECRET_NOT_FOUND")
    assert run.cancelled == []
    run.succeed("b")
    run.succeed("b2")
    assert run.said()[-3:] == ["node_skipped j", "node_skipped z", "run_failed"]
    skipped = [event.payload for event in run.events if event.event_type == "node_skipped"]
    assert skipped[0] == {"reasonCode": "UPSTREAM_FAILED", "blockers": ["a"]}
    assert run.state.error == "SECRET_NOT_FOUND"


def test_planned_retries_of_others_end_with_a_failure(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b")]))
    run.start()
    run.fail("a")
    run.fail("b", "SECRET_NOT_FOUND")
    assert run.state.status == "failed"
    assert run.state.nodes["a"].status == "cancelled"
    assert run.state.next_due_at is None


def test_sibling_that_was_dispatched_in_the_failing_step_is_never_sent(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b", script="{{ input.missing }}")]))
    transition = run.start()
    assert transition.dispatches == []
    assert transition.cancels == []
    assert run.state.status == "failed"
    assert run.state.error == "TEMPLATE_VALUE_MISSING"
    assert run.state.nodes["a"].status == "cancelled"


def test_missing_template_value_fails_the_node_when_it_starts(kit):
    run = kit.run(kit.listed(kit.shell("a", script="echo {{ input.nope }}")), input={})
    run.start()
    assert run.said() == ["run_started", "node_started a", "node_failed a", "run_failed"]
    assert run.events[2].payload["code"] == "TEMPLATE_VALUE_MISSING"


def test_failed_result_keeps_its_output_in_the_events(kit):
    run = kit.run(kit.listed(kit.shell("a")), policy=RunPolicy(run_retry=Backoff(1, 1)))
    run.start()
    run.fail("a", "HOST_EXIT_CODE:3", message="exit 3", output=msgspec.Raw(b'{"exitCode":3}'))
    assert run.said()[-3:] == ["remote_result_received a", "node_failed a", "run_failed"]
    assert msgspec.json.decode(msgspec.json.encode(last(run, "node_failed").payload)) == {
        "code": "HOST_EXIT_CODE:3",
        "message": "exit 3",
        "output": {"exitCode": 3},
    }


# --- cancel ----------------------------------------------------------------------------------------------------------


def test_queued_run_is_cancelled_at_once(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.cancel()
    assert run.said() == ["run_cancelled"]
    assert run.events[0].level == "warn"
    assert run.state.status == "cancelled"
    assert run.start().effects == []


def test_running_run_is_cancelled_with_its_last_execution(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b")]))
    run.start()
    run.cancel()
    assert set(run.cancelled) == {"a", "b"}
    run.confirm_cancel("b")
    assert run.state.status == "running"
    run.fail("a", "NODE_EXECUTION_CANCELLED")
    assert run.state.status == "cancelled"
    assert run.said()[-1] == "run_cancelled"
    assert run.state.error is None


def test_run_that_waits_for_a_retry_is_cancelled_at_once(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.start()
    run.fail("a")
    run.cancel()
    assert run.state.status == "cancelled"
    assert run.state.next_due_at is None


def test_result_that_won_the_race_against_the_cancel_is_kept_and_starts_nothing(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b")))
    run.start()
    run.cancel()
    run.succeed("a", 1)
    assert run.state.nodes["a"].status == "succeeded"
    assert run.state.status == "cancelled"
    assert "node_started b" not in run.said()


def test_second_cancel_and_cancel_of_a_failing_run_change_nothing(kit):
    run = kit.run(kit.graph([kit.shell("a"), kit.shell("b")]))
    run.start()
    run.fail("a", "SECRET_NOT_FOUND")
    assert run.cancel().effects == []
    run.confirm_cancel("b")
    assert run.state.status == "failed"


def test_execution_cancelled_by_somebody_else_fails_the_run(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.start()
    run.confirm_cancel("a")
    assert run.state.status == "failed"
    assert run.state.error == "NODE_EXECUTION_CANCELLED"


# --- late, repeated and unknown results ------------------------------------------------------------------------------


@pytest.mark.promise("P2")
def test_repeated_result_is_applied_once(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b")))
    run.start()
    run.succeed("a", 1)
    before = run.stored
    for event in (NodeSucceeded("a", 1, 2), NodeFailed("a", 1, "NODE_EXECUTION_FAILED")):
        assert run.apply(event).effects == []
    assert run.stored == before


@pytest.mark.promise("P2")
def test_result_of_an_earlier_attempt_is_ignored(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.start()
    run.fail("a", "AGENT_DISCONNECTED")
    run.wait_for_timer()
    assert run.apply(NodeSucceeded("a", 1, "late")).effects == []
    assert run.state.nodes["a"].status == "live"


@pytest.mark.promise("P2")
def test_result_for_a_node_that_was_never_reached_is_ignored(kit):
    run = kit.run(kit.listed(kit.shell("a"), kit.shell("b")))
    run.start()
    assert run.apply(NodeSucceeded("b", 1, None)).effects == []
    assert run.apply(NodeSucceeded("nowhere", 1, None)).effects == []


@pytest.mark.promise("P1")
def test_finished_run_ignores_everything(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.start()
    run.succeed("a")
    before = run.stored
    for event in (Start(), CancelRequested(), TimerDue(2**50), NodeSucceeded("a", 1, 1), NodeFailed("a", 1, "X")):
        assert run.apply(event).effects == []
    assert run.stored == before


def test_ignored_event_gives_back_the_same_state_object(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    run.start()
    state = run.state
    context = RunContext(organization_id="o", run_id="r", workflow_id="w", user_id=None, now_ms=0)
    assert step(run.plan, state, Start(), context).state is state


# --- the cursor ----------------------------------------------------------------------------------------------------


def test_cursor_of_a_one_node_run_is_small_and_survives_storage(kit):
    run = kit.run(kit.listed(kit.shell("a")))
    assert run.state == RunState()
    run.start()
    assert run.stored == b'{"s":"running","a":1,"n":{"a":{"a":1}}}'


def test_cursor_of_a_newer_server_can_be_read(kit):
    run = kit.run(kit.listed(kit.shell("a")), stored=b'{"s":"running","a":1,"zz":[1],"n":{"a":{"a":1,"yy":2}}}')
    run.live["a"] = 1
    run.succeed("a")
    assert run.state.status == "succeeded"


def test_shell_secrets_need_the_organizations_consent(kit):
    document = kit.listed(kit.shell("a", script="curl -H {{secrets.s1}} x"))
    run = kit.run(document)
    run.start()
    assert run.state.error == "SECRET_NOT_ALLOWED_FOR_SHELL"
    allowed = kit.run(document, policy=RunPolicy(settings=OrgSettings(tools=ToolSettings(shell_secrets_enabled=True))))
    allowed.start()
    assert allowed.execution("a").secret_refs == ("s1",)
    assert allowed.execution("a").payload["node"]["config"]["task"]["script"] == "curl -H {{secrets.s1}} x"
