"""The run machine (see run_table.py for the tables). `step` is pure: state and event in, new state and effects out."""

from __future__ import annotations

from vespid.domain.plan import Plan
from vespid.domain.run_event import (
    CancelExecution,
    CancelRequested,
    Dispatch,
    Effect,
    Emit,
    NewExecution,
    NodeCancelled,
    NodeFailed,
    NodeSucceeded,
    OutputsMissing,
    RunContext,
    RunEvent,
    Start,
    TimerDue,
    Transition,
)
from vespid.domain.run_state import NodeState, RunState, decode_state, encode_state

__all__ = [
    "CancelExecution",
    "CancelRequested",
    "Dispatch",
    "Effect",
    "Emit",
    "NewExecution",
    "NodeCancelled",
    "NodeFailed",
    "NodeState",
    "NodeSucceeded",
    "OutputsMissing",
    "RunContext",
    "RunEvent",
    "RunState",
    "Start",
    "TimerDue",
    "Transition",
    "abort",
    "decode_state",
    "encode_state",
    "outputs_to_load",
    "step",
]


def outputs_to_load(plan: Plan, state: RunState, event: RunEvent) -> frozenset[str]:
    """Nodes whose outputs the step will most likely name; often none. `OutputsMissing` tells the rest."""
    raise NotImplementedError


def step(plan: Plan, state: RunState, event: RunEvent, context: RunContext) -> Transition:
    """One step. Late, repeated and unknown results change nothing. Raises OutputsMissing."""
    raise NotImplementedError


def abort(state: RunState, context: RunContext, code: str, message: str) -> Transition:
    """Ends a run that cannot be stepped any more (INTERNAL_ERROR): failed at once, its executions cancelled."""
    raise NotImplementedError
