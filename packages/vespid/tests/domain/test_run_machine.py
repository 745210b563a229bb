"""Random workflows, and everything that can happen to their runs, in any order and repeated.

Whatever happens: one terminal event and nothing after it; at the end no execution is live and every node that was
reached is over; attempts only grow and no requestId is used twice; each node's events follow one grammar.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid.domain.policy import Backoff, RunPolicy
from vespid.domain.run import CancelRequested, NodeCancelled, NodeFailed, NodeSucceeded, Start, TimerDue
from vespid.domain.run_state import NODE_LIVE, NODE_TERMINAL, RUN_TERMINAL
from vespid.domain.run_table import NODE_TABLE, RUN_TABLE, IllegalTransition, run_move

CODES = ("NODE_EXECUTION_FAILED", "AGENT_DISCONNECTED", "SECRET_NOT_FOUND", "EXECUTOR_OVER_CAPACITY")
TERMINAL_EVENTS = {"run_succeeded", "run_failed", "run_cancelled"}
LETTERS = {
    "node_started": "s",
    "node_waiting": "w",
    "approval_requested": "q",
    "node_dispatched": "d",
    "remote_result_received": "r",
    "node_succeeded": "S",
    "node_failed": "F",
    "node_retried": "t",
    "node_skipped": "x",
}
# A node is skipped, or makes attempts of which all but the last failed or were refused; a retry of the run shows in the
# node only as its next start. `M`: people are asked, before it is dispatched or in the middle of an agent's work.
GRAMMAR = re.compile(r"x|(sM(d(rF?|F|)t?|F))*(s(M(d(r?S|r?F|)|F|)|S))?".replace("M", "(wq+)*(d(wq+)+)*"))


AGENT = {
    "prompt": {"instructions": "do it"},
    "execution": {"mode": "executor"},
    "tools": {"allow": ["shell.run", "memory.get"], "approval": {"memory.*": {}}},
}
CALL = {"n": 0, "tool": "memory.get", "arguments": {"path": "x"}, "digest": "a" * 64}


@st.composite
def documents(draw):
    """A v3 document: up to seven nodes, edges only forwards."""
    count = draw(st.integers(1, 7))
    choices = ["shell", "shell", "agent", "condition", "join"]
    kinds = draw(st.lists(st.sampled_from(choices), min_size=count, max_size=count))
    nodes: dict[str, object] = {}
    for index, kind in enumerate(kinds):
        node_id = f"n{index}"
        if kind == "condition":
            config = {"path": "$.input.go", "op": "eq", "value": draw(st.booleans())}
            nodes[node_id] = {"type": "condition", "config": config}
        elif kind == "join":
            nodes[node_id] = {"type": "parallel.join", "config": {"mode": "all", "failFast": draw(st.booleans())}}
        else:
            nodes[node_id] = {"type": "agent.execute", "config": {}}
            if kind == "agent":
                nodes[node_id] = {"type": "agent.run", "config": AGENT}
            if draw(st.booleans()):
                nodes[node_id]["retry"] = {"maxAttempts": draw(st.integers(1, 3)), "backoffMs": 10}
            if draw(st.booleans()):
                nodes[node_id]["approval"] = {"by": "member"}
    edges = []
    for target in range(1, count):
        for source in sorted(draw(st.sets(st.integers(0, target - 1), max_size=3))):
            kind = draw(st.sampled_from(["cond_true", "cond_false"])) if kinds[source] == "condition" else "always"
            edges.append({"id": f"e{len(edges)}", "from": f"n{source}", "to": f"n{target}", "kind": kind})
    return {"version": "v3", "trigger": {"type": "trigger.manual"}, "graph": {"nodes": nodes, "edges": edges}}


def noise(draw, run):
    """Something that should not be there: an old attempt's result, a result for another node, a repeated start."""
    node_id = f"n{draw(st.integers(0, 7))}"
    attempt = draw(st.integers(0, 3))
    if run.live.get(node_id) == attempt:
        return None
    return draw(
        st.sampled_from(
            [
                NodeSucceeded(node_id, attempt, "noise"),
                NodeFailed(node_id, attempt, "NODE_EXECUTION_FAILED"),
                NodeCancelled(node_id, attempt),
                TimerDue(0),
            ]
        )
    )


def act(draw, run, may_cancel):
    """One thing that happens to the run."""
    choices = ["noise"]
    if run.state.phase == "queued":
        choices += ["start"] * 3
    if run.live:
        choices += ["succeed"] * 4 + ["fail"] * 3
    if run.state.next_due_at is not None:
        choices += ["timer"] * 3
    if may_cancel:
        choices.append("cancel")
    choice = draw(st.sampled_from(choices))
    if choice == "noise":
        if event := noise(draw, run):
            before = run.stored
            assert run.apply(event).effects == []
            assert run.stored == before
    elif choice == "start":
        run.start()
    elif choice == "timer":
        run.wait_for_timer()
    elif choice == "cancel":
        run.apply(CancelRequested())
    else:
        node_id = draw(st.sampled_from(sorted(run.live)))
        if node_id in run.cancelled:
            run.confirm_cancel(node_id)
        elif run.execution(node_id).kind == "approval":
            answer(draw(st.sampled_from(["approved", "approved", "denied", "expired"])), run, node_id)
        elif choice == "succeed":
            run.succeed(node_id, {"n": 1})
        elif run.execution(node_id).kind == "agent.run" and draw(st.booleans()):
            # Sometimes what it says is not readable.
            calls = [CALL | {"n": n} for n in range(draw(st.integers(0, 3)))]
            run.park(node_id, *calls)
        else:
            run.fail(node_id, draw(st.sampled_from(CODES)))


def answer(decision, run, node_id):
    run.decide(node_id, *(decision for _ in run.execution(node_id).asks))


def play_to_the_end(run):
    """What the world does in time by itself: executions end, timers come."""
    if run.state.phase == "queued":
        run.start()
    for _ in range(500):
        if run.state.phase in RUN_TERMINAL:
            return
        if run.live:
            node_id = next(iter(run.live))
            if node_id in run.cancelled:
                run.confirm_cancel(node_id)
            elif run.execution(node_id).kind == "approval":
                answer("approved", run, node_id)
            else:
                run.succeed(node_id, {"n": 1})
        else:
            run.wait_for_timer()
    pytest.fail("the run does not end")


def check_invariants(run):
    state = run.state
    live = {node_id for node_id, node in state.nodes.items() if node.status in NODE_LIVE}
    assert live == set(run.live)
    for node_id in live:
        asks = state.nodes[node_id].status in ("asking", "withdrawing")
        assert asks == (run.execution(node_id).kind == "approval")
        # Nothing that people have to allow is dispatched without.
        if not asks and run.plan.by_id[node_id].approval is not None:
            assert state.nodes[node_id].approved is not None
    assert all(state.nodes[node_id].attempt == attempt for node_id, attempt in run.live.items())
    if state.phase in RUN_TERMINAL:
        assert not live
        assert all(node.status in NODE_TERMINAL for node in state.nodes.values())
        assert state.next_due_at is None
    elif state.phase in ("failing", "cancelling"):
        assert live
    elif state.phase == "running":
        assert live or state.next_due_at is not None


def check_story(run):
    types = [event.event_type for event in run.events]
    assert sum(event_type in TERMINAL_EVENTS for event_type in types) == 1
    assert types[-1] in TERMINAL_EVENTS
    assert types[-1] == f"run_{run.state.status}"
    assert types.count("run_started") == (0 if len(types) == 1 else 1)
    assert types[0] in ("run_started", "run_cancelled")
    for node_id in run.plan.by_id:
        told = [event for event in run.events if event.node_id == node_id]
        word = "".join(LETTERS[event.event_type] for event in told)
        assert GRAMMAR.fullmatch(word), f"{node_id}: {word}"
        requests = [
            event.payload["requestId"] for event in told if event.event_type in ("node_dispatched", "node_waiting")
        ]
        attempts = [int(request.rpartition(":")[2]) for request in requests]
        assert attempts == list(range(1, len(attempts) + 1))
    assert run.state.attempt_count <= run.policy.run_retry.max_attempts


@pytest.mark.promise("P1")
@settings(max_examples=250, deadline=None)
@given(st.data())
def test_every_run_ends_once_whatever_happens_to_it(kit, data):
    policy = RunPolicy(run_retry=Backoff(data.draw(st.integers(1, 3)), 1_000))
    run = kit.run(data.draw(documents()), input={"go": data.draw(st.booleans())}, policy=policy)
    may_cancel = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(0, 25))):
        act(data.draw, run, may_cancel)
        check_invariants(run)
    play_to_the_end(run)
    check_invariants(run)
    check_story(run)


@settings(max_examples=100, deadline=None)
@given(documents(), st.booleans())
def test_undisturbed_run_succeeds_and_every_node_is_over(kit, document, go):
    run = kit.run(document, input={"go": go})
    play_to_the_end(run)
    assert run.state.status == "succeeded"
    assert run.state.nodes.keys() == run.plan.by_id.keys()
    assert {node.status for node in run.state.nodes.values()} <= {"succeeded", "skipped"}


@settings(max_examples=60, deadline=None)
@given(documents(), st.randoms(use_true_random=False))
def test_order_of_results_does_not_change_the_outcome(kit, document, random):
    outcomes = []
    for shuffled in (False, True):
        run = kit.run(document, input={"go": True})
        run.start()
        while run.live:
            waiting = sorted(run.live)
            node_id = random.choice(waiting) if shuffled else waiting[0]
            if run.execution(node_id).kind == "approval":
                answer("approved", run, node_id)
            else:
                run.succeed(node_id, {"n": 1})
        outcomes.append({node_id: node.status for node_id, node in run.state.nodes.items()})
    assert outcomes[0] == outcomes[1]


def test_tables_know_every_phase_status_and_event():
    events = {Start, NodeSucceeded, NodeFailed, NodeCancelled, CancelRequested, TimerDue}
    assert all(row.keys() == events for row in RUN_TABLE.values())
    results = {NodeSucceeded, NodeFailed, NodeCancelled}
    assert all(row.keys() == results for row in NODE_TABLE.values())


def test_event_that_no_table_knows_is_illegal():
    with pytest.raises(IllegalTransition):
        run_move("running", object())
