"""What a run waits for, node by node: a machine, a place in the quota, a person, the work itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Keys below `waits`, by why an attempt is not placed yet.
_REASONS = {
    "NONE_CONNECTED": "none_connected",
    "NONE_MATCHES": "none_matches",
    "ALL_FULL": "all_full",
    "QUOTA": "quota",
}


@dataclass(frozen=True, slots=True)
class Wait:
    """One node's. `key` is that of its text, `until` when something else happens by itself."""

    node_id: str
    key: str
    until: str
    agent: str | None = None
    approval_ids: Sequence[str] = ()


def waits_of(run: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> list[Wait]:
    """In the order of the run's `blockedNodes`; `attempts` are the run's, of which one may lack."""
    by_request = {attempt["requestId"]: attempt for attempt in attempts}
    return [_wait(blocked, by_request.get(blocked["requestId"])) for blocked in run["blockedNodes"]]


def places_of(attempts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By node: on which agent its latest attempt is or was."""
    latest: dict[str, Mapping[str, Any]] = {}
    for attempt in attempts:
        if attempt["executorName"] and attempt["attempt"] >= latest.get(attempt["nodeId"], attempt)["attempt"]:
            latest[attempt["nodeId"]] = attempt
    return {node_id: attempt["executorName"] for node_id, attempt in latest.items()}


def _wait(blocked: Mapping[str, Any], attempt: Mapping[str, Any] | None) -> Wait:
    node_id, until = blocked["nodeId"], blocked["timeoutAt"]
    if blocked["kind"] == "approval":
        return Wait(node_id, "approval", until, approval_ids=blocked.get("approvalIds", []))
    if attempt is None:
        return Wait(node_id, "work", until)
    if attempt["state"] == "pending":
        return Wait(node_id, _REASONS.get(attempt["waitingReason"], "place"), attempt["waitUntil"])
    if attempt["state"] == "cancelling":
        return Wait(node_id, "cancelling", until, attempt["executorName"])
    return Wait(node_id, "agent" if attempt["executorName"] else "work", until, attempt["executorName"])
