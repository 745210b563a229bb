"""`run.output` as the API answers it, made from the cursor and the nodes' outputs; nothing of it is stored twice."""

from __future__ import annotations

from collections.abc import Mapping

from vespid.domain.plan import Plan
from vespid.domain.run_state import NodeState, RunState, RunStatus

_STEP_STATUS = {
    "live": "running",
    "cancelling": "running",
    "asking": "waiting",
    "withdrawing": "waiting",
    "backoff": "retrying",
    "awaiting": "retrying",
}


def run_output(plan: Plan, state: RunState, outputs: Mapping[str, object]) -> dict[str, object] | None:
    """`{status, steps:[{nodeId,nodeType,status,output?,error?,errorMessage?}], output:{completedNodeCount,
    failedNodeId}}`, or None for a run that has not started. Steps are the nodes reached, in the order of the plan;
    `outputs` may be undecoded (`msgspec.Raw`) and may lack what the reader does not want."""
    if state.phase == "queued":
        return None
    status: RunStatus = state.status
    return {
        "status": status,
        "steps": [
            _step(node.id, node.type, reached, outputs)
            for node in plan.nodes
            if (reached := state.nodes.get(node.id)) is not None
        ],
        "output": {"completedNodeCount": state.completed_node_count, "failedNodeId": state.failed_node},
    }


def _step(node_id: str, node_type: str, node: NodeState, outputs: Mapping[str, object]) -> dict[str, object]:
    view: dict[str, object] = {
        "nodeId": node_id,
        "nodeType": node_type,
        "status": _STEP_STATUS.get(node.status, node.status),
    }
    if node.output is not None:
        view["output"] = node.output
    elif node_id in outputs:
        view["output"] = outputs[node_id]
    if node.error is not None:
        view["error"] = node.error
        if node.error_message is not None:
            view["errorMessage"] = node.error_message
    return view
