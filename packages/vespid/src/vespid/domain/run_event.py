"""What goes into the run machine and what comes out: events, effects, and the context of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from vespid.domain.plan import OnLost, Placement, Schedule
from vespid.domain.policy import RunPolicy
from vespid.domain.run_state import RunState
from vespid.domain.selector import Pool, Requirement, Selector
from vespid_runtime.tools.approval import ApprovalRole

# --- events ----------------------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True):
    """The run was created and is due."""


class NodeSucceeded(msgspec.Struct, frozen=True):
    """The execution of a node's attempt succeeded. `output` may be undecoded (`msgspec.Raw`)."""

    node_id: str
    attempt: int
    output: object = None


class NodeFailed(msgspec.Struct, frozen=True):
    """The execution of a node's attempt failed: `code` of the contract, for the rest see `node_failed`'s payload."""

    node_id: str
    attempt: int
    code: str
    message: str | None = None
    details: object = None
    output: object = None


class NodeCancelled(msgspec.Struct, frozen=True):
    """The execution of a node's attempt ended as cancelled."""

    node_id: str
    attempt: int


class CancelRequested(msgspec.Struct, frozen=True):
    """Somebody wants the run stopped."""


class TimerDue(msgspec.Struct, frozen=True):
    """It is `now_ms` (epoch ms); what was planned up to then is due."""

    now_ms: int


RunEvent = Start | NodeSucceeded | NodeFailed | NodeCancelled | CancelRequested | TimerDue

# --- effects ---------------------------------------------------------------------------------------------------------

EventType = Literal[
    "run_started",
    "node_taken_over",
    "node_started",
    "node_waiting",
    "node_dispatched",
    "approval_requested",
    "approval_decided",
    "remote_event",
    "remote_result_received",
    "node_succeeded",
    "node_failed",
    "node_skipped",
    "node_retried",
    "run_retried",
    "run_succeeded",
    "run_failed",
    "run_cancelled",
]
Level = Literal["info", "warn", "error"]


class Emit(msgspec.Struct, frozen=True, rename="camel"):
    """A row of workflow_run_events; the store gives it its seq, id and time. `payload` is already cut."""

    event_type: EventType
    level: Level = "info"
    node_id: str | None = None
    node_type: str | None = None
    message: str | None = None
    payload: object = None
    # The run's attemptCount when it happened.
    attempt_count: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One question to people, a row of approvals."""

    id: str
    kind: Literal["node", "tool"]
    # Of a tool's call: its place among all calls of the node, its tool, and the digest of its arguments.
    n: int | None = None
    tool: str | None = None
    digest: str | None = None
    by: ApprovalRole
    timeout_ms: int
    # Canonical JSON, and the lower-case hex of its SHA-256.
    what: str
    hash: str


class NewExecution(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A row of executions, state pending."""

    # <runId>:<nodeId>:<attempt>
    request_id: str
    node_id: str
    node_type: str
    attempt: int
    # connector.action, agent.execute, agent.run, http.request; approval
    kind: str
    # person: nobody leases it, people end it.
    placement: Placement | Literal["person"]
    # Of protocol.md §1.4; templates filled, `{{secrets.<id>}}` not.
    payload: dict[str, object]
    # Every secret the execution may need: what `{{secrets.<id>}}` names, and auth_secret.
    secret_refs: tuple[str, ...] = ()
    # The one of them that travels as `execute.secret`.
    auth_secret: str | None = None
    selector: Selector = Selector()
    # byon unless the selector says managed.
    pool: Pool = "byon"
    requirement: Requirement
    signature: str
    schedule: Schedule = Schedule()
    timeout_ms: int
    on_lost: OnLost = "fail"
    # Higher goes first.
    priority: int = 0
    # Of an approval: what people are asked, at least one thing.
    asks: tuple[Ask, ...] = ()


class Dispatch(msgspec.Struct, frozen=True):
    """Insert this execution, then choose an executor for it."""

    execution: NewExecution


class CancelExecution(msgspec.Struct, frozen=True):
    """Cancel this execution: pending becomes cancelled, live becomes cancelling. Answer with `NodeCancelled`."""

    request_id: str
    node_id: str
    attempt: int


Effect = Emit | Dispatch | CancelExecution


class Transition(msgspec.Struct, frozen=True):
    """The outcome of a step. Nothing changed: the same state object and no effects."""

    state: RunState
    emits: list[Emit] = []
    dispatches: list[NewExecution] = []
    cancels: list[CancelExecution] = []

    @property
    def effects(self) -> list[Effect]:
        """All of them: events in their order, then new executions, then cancellations."""
        return [*self.emits, *(Dispatch(execution) for execution in self.dispatches), *self.cancels]


# --- context ---------------------------------------------------------------------------------------------------------


class RunContext(msgspec.Struct, kw_only=True):
    """What is true of the run beside its cursor. Values may be undecoded (`msgspec.Raw`): decoded when used."""

    organization_id: str
    run_id: str
    workflow_id: str
    # Of all revisions of the workflow; "" where it is not known.
    family_id: str = ""
    user_id: str | None
    now_ms: int
    input: object = None
    # Outputs of finished nodes. May be empty: a step that needs one asks for it (`OutputsMissing`); most need none.
    outputs: Mapping[str, object] = {}
    policy: RunPolicy = RunPolicy()


class OutputsMissing(LookupError):
    """A step needs outputs that `context.outputs` does not hold: load `node_ids`, step again. Nothing has changed."""

    def __init__(self, node_ids: frozenset[str]) -> None:
        super().__init__(f"outputs needed: {', '.join(sorted(node_ids))}")
        self.node_ids = node_ids
