"""A run tried again: what it takes over, and that it ends as an unbroken one would."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid.domain.retry import nodes_with_results, taken_over
from vespid.domain.run import CancelRequested
from vespid.domain.run_state import RUN_TERMINAL, encode_state

OLD = "01900000-0000-7000-8000-00000000000f"


@st.composite
def documents(draw):
    """A v3 document: up to eight nodes, edges only forwards."""
    count = draw(st.integers(1, 8))
    kinds = [draw(st.sampled_from(["shell", "shell", "shell", "condition", "join"])) for _ in range(count)]
    nodes: dict[str, object] = {}
    for index, kind in enumerate(kinds):
        if kind == "condition":
            config = {"path": "$.input.go", "op": "eq", "value": draw(st.booleans())}
            nodes[f"n{index}"] = {"type": "condition", "config": config}
        elif kind == "join":
            config = {"mode": "all", "failFast": draw(st.booleans())}
            nodes[f"n{index}"] = {"type": "parallel.join", "config": config}
        else:
            nodes[f"n{index}"] = {"type": "agent.execute", "config": {}}
    edges = []
    for target in range(1, count):
        for source in sorted(draw(st.sets(st.integers(0, target - 1), max_size=3))):
            kind = draw(st.sampled_from(["cond_true", "cond_false"])) if kinds[source] == "condition" else "always"
            edges.append({"id": f"e{len(edges)}", "from": f"n{source}", "to": f"n{target}", "kind": kind})
    return {"version": "v3", "trigger": {"type": "trigger.manual"}, "graph": {"nodes": nodes, "edges": edges}}


def play(run, random, failing=frozenset(), cancel_after=None):
    """To the end, results coming in any order; nodes that are failing do so for good."""
    run.start()
    played = 0
    while run.state.phase not in RUN_TERMINAL:
        if played == cancel_after:
            run.apply(CancelRequested())
        played += 1
        if not run.live:
            continue
        node_id = random.choice(sorted(run.live))
        if node_id in run.cancelled:
            run.confirm_cancel(node_id)
        elif node_id in failing:
            run.fail(node_id, "SECRET_NOT_FOUND")
        else:
            run.succeed(node_id, f"answer of {node_id}")
    return run


def retry(kit, document, before, from_node_id=None, **more):
    """The new run as the store makes it: outputs of the nodes taken over are there, and no others."""
    state = taken_over(before.plan, before.state, OLD, from_node_id)
    outputs = {node_id: before.outputs[node_id] for node_id in nodes_with_results(before.plan, state)}
    return kit.run(document, stored=encode_state(state), outputs=outputs, **more)


def outcome(run):
    nodes = {node_id: (node.status, node.output) for node_id, node in run.state.nodes.items()}
    return run.state.phase, nodes, run.outputs


@pytest.mark.promise("P1", "P2")
@settings(max_examples=200, deadline=None)
@given(documents(), st.randoms(use_true_random=False), st.data())
def test_a_retried_run_ends_as_an_unbroken_one_would_and_does_nothing_twice(kit, document, random, data):
    go = data.draw(st.booleans())
    unbroken = play(kit.run(document, input={"go": go}), random)
    node_ids = sorted(unbroken.plan.by_id)
    failing = data.draw(st.sets(st.sampled_from(node_ids)))
    before = play(kit.run(document, input={"go": go}), random, failing, data.draw(st.none() | st.integers(0, 6)))
    from_node_id = data.draw(st.none() | st.sampled_from(node_ids))
    run = retry(kit, document, before, from_node_id, input={"go": go})
    taken = set(run.state.nodes)
    play(run, random)
    assert outcome(run) == outcome(unbroken)
    done_again = {execution.node_id for execution in run.executions.values()}
    assert not done_again & taken
    assert from_node_id not in taken
    # What succeeded is left alone unless it comes after what runs again.
    for node in run.plan.nodes:
        reached = before.state.nodes.get(node.id)
        if reached is not None and reached.status == "succeeded" and node.id not in taken:
            assert node.id == from_node_id or any(edge.source not in taken for edge in node.incoming)


def test_a_list_goes_on_at_what_failed_and_reads_what_was_done_before(kit):
    document = kit.listed(kit.shell("n1"), kit.shell("n2", script="echo {{ steps.n1.output.word }}"), kit.shell("n3"))
    before = kit.run(document)
    before.start()
    before.succeed("n1", {"word": "bird"})
    before.fail("n2", "SECRET_NOT_FOUND")
    run = retry(kit, document, before)
    run.start()
    assert run.said() == ["run_started", "node_taken_over n1", "node_started n2", "node_dispatched n2"]
    assert run.events[1].payload == {"runId": OLD, "status": "succeeded"}
    assert "echo bird" in str(run.execution("n2").payload)
    assert run.execution("n2").attempt == 1
    run.succeed("n2")
    run.succeed("n3")
    assert run.events[-1].payload == {"completedNodeCount": 3}


def test_a_node_that_is_named_runs_again_with_all_that_comes_after_it(kit):
    document = kit.graph([kit.shell("a"), kit.shell("b"), kit.shell("c"), kit.shell("d")], "a>b", "b>c", "a>d")
    before = kit.run(document)
    before.start()
    for node_id in ("a", "b", "d", "c"):
        before.succeed(node_id)
    assert set(taken_over(before.plan, before.state, OLD, "b").nodes) == {"a", "d"}
    assert set(taken_over(before.plan, before.state, OLD, None).nodes) == {"a", "b", "c", "d"}


def test_what_a_person_allowed_is_asked_for_again(kit):
    document = kit.listed(kit.shell("n1", approval={"by": "member"}))
    before = kit.run(document)
    before.start()
    before.decide("n1", "approved")
    before.fail("n1", "SECRET_NOT_FOUND")
    run = retry(kit, document, before)
    run.start()
    assert run.execution("n1").kind == "approval"


def test_a_retry_that_is_cancelled_before_it_starts_does_nothing(kit):
    document = kit.listed(kit.shell("n1"), kit.shell("n2"))
    before = kit.run(document)
    before.start()
    before.succeed("n1")
    before.fail("n2", "SECRET_NOT_FOUND")
    run = retry(kit, document, before)
    run.cancel()
    assert run.said() == ["run_cancelled"]
    assert run.state.status == "cancelled"
