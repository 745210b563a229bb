"""The run machine's tables.

A run is a cursor over a plan. A step takes one event and answers the new cursor, the events to append, the executions
to insert and those to cancel; all of it is written by one statement. Nobody holds a run between two steps.

`RUN_TABLE` says what a phase does with an event, `NODE_TABLE` what a node's status does with a result that carries its
current attempt; results for any other attempt, and for nodes that were never reached, change nothing. `FAILURE_TABLE`
is read from top to bottom for an attempt that failed while the run goes on.

The end of a run always waits for its executions: a failure or a cancel sends `CancelExecution` to the live ones, and
the run becomes failed or cancelled with the last of them (bounded: a cancelling execution ends within 10 s); where
nothing is live, at once. The first outcome stands: a cancel does not change a run that is failing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import msgspec

from vespid.domain.run_event import (
    CancelRequested,
    NodeCancelled,
    NodeFailed,
    NodeSucceeded,
    RunEvent,
    Start,
    TimerDue,
)
from vespid.domain.run_state import NodeStatus, RunPhase
from vespid_protocol.codes import is_retryable


class RunMove(Enum):
    """What a run does with an event."""

    IGNORE = "nothing"
    BEGIN = "start the nodes that wait for none"
    RESULT = "see the node's table"
    STOP = "cancel what is live"
    WAKE = "start what is due"


class NodeMove(Enum):
    """What a node does with a result of its current attempt."""

    IGNORE = "nothing"
    SUCCEED = "succeeded; go on behind it"
    FAIL = "see the failure table"
    DENY = "failed NODE_EXECUTION_CANCELLED; see the failure table"
    DECIDED = "allowed: dispatched; not allowed: failed APPROVAL_DENIED or APPROVAL_EXPIRED; a tool's call: told to it"
    STOPPED = "cancelled"


class Verdict(Enum):
    """What follows from a failed attempt."""

    ASK = "people are asked, no budget is used"
    REFUSED = "tried again, no budget is used"
    NODE_RETRY = "tried again by the node's own budget"
    RUN_RETRY = "tried again with the run's next attempt"
    FINAL = "the node fails, and with it the run"


_NOTHING: dict[type[RunEvent], RunMove] = {
    Start: RunMove.IGNORE,
    NodeSucceeded: RunMove.IGNORE,
    NodeFailed: RunMove.IGNORE,
    NodeCancelled: RunMove.IGNORE,
    CancelRequested: RunMove.IGNORE,
    TimerDue: RunMove.IGNORE,
}
_RESULTS: dict[type[RunEvent], RunMove] = {
    NodeSucceeded: RunMove.RESULT,
    NodeFailed: RunMove.RESULT,
    NodeCancelled: RunMove.RESULT,
}

RUN_TABLE: dict[RunPhase, dict[type[RunEvent], RunMove]] = {
    "queued": _NOTHING | {Start: RunMove.BEGIN, CancelRequested: RunMove.STOP},
    "running": _NOTHING | _RESULTS | {CancelRequested: RunMove.STOP, TimerDue: RunMove.WAKE},
    "failing": _NOTHING | _RESULTS,
    "cancelling": _NOTHING | _RESULTS,
    "succeeded": _NOTHING,
    "failed": _NOTHING,
    "cancelled": _NOTHING,
}

_LATE: dict[type[RunEvent], NodeMove] = {
    NodeSucceeded: NodeMove.IGNORE,
    NodeFailed: NodeMove.IGNORE,
    NodeCancelled: NodeMove.IGNORE,
}

NODE_TABLE: dict[NodeStatus, dict[type[RunEvent], NodeMove]] = {
    "live": {NodeSucceeded: NodeMove.SUCCEED, NodeFailed: NodeMove.FAIL, NodeCancelled: NodeMove.DENY},
    # The store is the judge of a race between result and cancel; what it took as a success is one.
    "cancelling": {
        NodeSucceeded: NodeMove.SUCCEED,
        NodeFailed: NodeMove.STOPPED,
        NodeCancelled: NodeMove.STOPPED,
    },
    # Expired is a failure of the approval with people's answers in it.
    "asking": {NodeSucceeded: NodeMove.DECIDED, NodeFailed: NodeMove.DECIDED, NodeCancelled: NodeMove.DENY},
    # What people allowed too late is not begun.
    "withdrawing": {
        NodeSucceeded: NodeMove.STOPPED,
        NodeFailed: NodeMove.STOPPED,
        NodeCancelled: NodeMove.STOPPED,
    },
    "backoff": _LATE,
    "awaiting": _LATE,
    "succeeded": _LATE,
    "failed": _LATE,
    "cancelled": _LATE,
    "skipped": _LATE,
}


class Failure(msgspec.Struct, frozen=True):
    """What the failure table looks at."""

    code: str
    # It says APPROVAL_REQUIRED, and what people have to decide.
    asks_people: bool
    # The infrastructure may go on refusing this node: its schedule says wait, and maxWaitMs are not over.
    may_be_refused: bool
    has_own_budget: bool
    own_budget_left: bool
    run_budget_left: bool


# The work was not begun, and not because of the work.
REFUSALS: frozenset[str] = frozenset(
    {"EXECUTOR_OVER_CAPACITY", "GATEWAY_UNAVAILABLE", "GATEWAY_DISPATCH_FAILED", "GATEWAY_SHUTDOWN"}
)


class FailureRow(NamedTuple):
    """One line of the failure table."""

    when: str
    holds: Callable[[Failure], bool]
    verdict: Verdict


FAILURE_TABLE: tuple[FailureRow, ...] = (
    FailureRow("calls of tools that people have to allow", lambda failure: failure.asks_people, Verdict.ASK),
    FailureRow(
        "refused by the infrastructure, within maxWaitMs",
        lambda failure: failure.code in REFUSALS and failure.may_be_refused,
        Verdict.REFUSED,
    ),
    FailureRow(
        "a retry cannot mend it",
        lambda failure: not is_retryable(failure.code),
        Verdict.FINAL,
    ),
    FailureRow(
        "the node has its own retry, attempts left",
        lambda failure: failure.has_own_budget and failure.own_budget_left,
        Verdict.NODE_RETRY,
    ),
    FailureRow("the node has its own retry, none left", lambda failure: failure.has_own_budget, Verdict.FINAL),
    FailureRow("the run has attempts left", lambda failure: failure.run_budget_left, Verdict.RUN_RETRY),
    FailureRow("the run has none left", lambda failure: True, Verdict.FINAL),
)


def judge(failure: Failure) -> Verdict:
    """The first row of the failure table that holds."""
    return next(row.verdict for row in FAILURE_TABLE if row.holds(failure))


class IllegalTransition(Exception):
    """The event is none that the table of this phase knows; nothing was changed."""


def run_move(phase: RunPhase, event: RunEvent) -> RunMove:
    """Raises IllegalTransition."""
    try:
        return RUN_TABLE[phase][type(event)]
    except KeyError as error:
        raise IllegalTransition(f"{type(event).__name__} in phase {phase}") from error
