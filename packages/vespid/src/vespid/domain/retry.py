"""A run that is over, tried again: which results a new run takes over, so that it goes on where the old one failed.

A node's result is taken over if it had succeeded or been skipped and so had every node before it, none of which runs
again. So what comes after a node that runs again runs again too, and the new run ends as an unbroken one would. What
people allowed is not taken over: a node that runs again is asked for again.
"""

from vespid.domain.plan import INLINE_TYPES, Plan
from vespid.domain.run_state import NodeState, RunState


def taken_over(plan: Plan, before: RunState, run_id: str, from_node_id: str | None) -> RunState:
    """The state that a retry of the run begins with. `from_node_id` runs again whatever became of it."""
    nodes: dict[str, NodeState] = {}
    # In topological order: what comes before a node has been decided.
    for node in plan.nodes:
        reached = before.nodes.get(node.id)
        if reached is None or reached.status not in ("succeeded", "skipped") or node.id == from_node_id:
            continue
        if all(edge.source in nodes for edge in node.incoming):
            # Of however many attempts there were, the new run has the one that answered.
            nodes[node.id] = NodeState(
                status=reached.status, attempt=1 if reached.attempt else 0, output=reached.output
            )
    return RunState(nodes=nodes, taken_from=run_id)


def nodes_with_results(plan: Plan, state: RunState) -> list[str]:
    """Of the nodes taken over those whose output is not in the state: an execution has it."""
    return [
        node.id
        for node in plan.nodes
        if node.type not in INLINE_TYPES
        and (taken := state.nodes.get(node.id)) is not None
        and taken.status == "succeeded"
    ]
