"""Runs, and what happens in them."""

from typing import Any

from vespid_client.models.model import Model
from vespid_client.models.usage import RunUsed

TERMINAL_EVENTS = frozenset({"run_succeeded", "run_failed", "run_cancelled"})


class Blocked(Model, frozen=True, kw_only=True):
    """What a run waits for; of kind `approval` it waits for people."""

    request_id: str
    node_id: str
    kind: str
    since: str
    timeout_at: str
    approval_id: str | None = None
    approval_ids: list[str] | None = None


class RetryOf(Model, frozen=True, kw_only=True):
    """The run that another one takes the results of earlier nodes over from."""

    run_id: str
    from_node_id: str | None = None


class Run(Model, frozen=True, kw_only=True):
    """One run. `error` is a code, `error_message` is for people; `blocked` is the oldest of `blocked_nodes`."""

    id: str
    organization_id: str
    workflow_id: str
    trigger_type: str
    status: str
    attempt_count: int
    max_attempts: int
    next_attempt_at: str | None
    requested_by_user_id: str | None
    input: Any
    output: Any
    error: str | None
    error_message: str | None
    blocked: Blocked | None
    blocked_nodes: list[Blocked]
    usage: RunUsed | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    # In lists over workflows.
    workflow_name: str | None = None
    # What it takes results over from; None: it began by itself.
    retry_of: RetryOf | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("succeeded", "failed", "cancelled")


class RunEvent(Model, frozen=True, kw_only=True):
    """One thing that happened; `seq` counts from 1 per run, without gaps."""

    id: str
    seq: int
    organization_id: str
    workflow_id: str
    run_id: str
    attempt_count: int
    event_type: str
    node_id: str | None
    node_type: str | None
    level: str
    message: str | None
    payload: Any
    created_at: str

    @property
    def is_terminal(self) -> bool:
        """Whether it is the run's last."""
        return self.event_type in TERMINAL_EVENTS


class Attempt(Model, frozen=True, kw_only=True):
    """One attempt of a node that is carried out somewhere, or asked of people.

    `granted_at`: since when its executor has it; `executor_name` None: it has none.
    """

    request_id: str
    node_id: str
    attempt: int
    kind: str
    placement: str
    state: str
    executor_id: str | None
    executor_name: str | None
    # Why it is not placed yet, and until when it waits.
    waiting_reason: str | None
    wait_until: str
    created_at: str
    granted_at: str | None
    finished_at: str | None
    error: str | None
