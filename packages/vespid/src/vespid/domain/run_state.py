"""The cursor of a run: all that the run machine remembers between two steps. Small JSON with short keys.

| key | meaning |
|---|---|
| `s` | phase: queued, running, failing, cancelling, succeeded, failed, cancelled |
| `a` | attemptCount: 0 while queued, 1 from the first start, +1 for every retry of the run |
| `w` | nextAttemptAt: when the run's next retry starts (epoch ms), absent where none is planned |
| `x` `m` `f` | code and message of the run's failure, and the node that failed |
| `n` | the nodes that have been reached, by id; others are pending |
| `t` | while queued: the run that this one retries; `n` are the nodes whose results it takes over |

and per node: `s` status, `a` attempt (the number in its requestId), `r` retries used of its own budget, `d` when its
own retry is due, `q` since when the infrastructure has been refusing it, `e` code of the last failure, `m` its message,
`o` the output of a condition or join, `h` the hash of what a person allowed of it. Unknown keys are ignored and all
keys have defaults, so that an older and a newer server can step the same run; a status that is not known is refused,
nobody guesses what to do about it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

# failing and cancelling: the outcome is certain, executions that are still live are being cancelled.
RunPhase = Literal["queued", "running", "failing", "cancelling", "succeeded", "failed", "cancelled"]
# The column and the API know fewer: what is not yet over is running.
RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
# live: an execution exists and is not terminal. cancelling: likewise, and it was told to stop.
# asking: the execution is an approval, which waits for people. withdrawing: likewise, and it is not wanted any more.
# backoff: the node's own retry is planned. awaiting: it goes along with the run's next retry.
NodeStatus = Literal[
    "live", "cancelling", "asking", "withdrawing", "backoff", "awaiting", "succeeded", "failed", "cancelled", "skipped"
]

RUN_TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
NODE_LIVE: frozenset[str] = frozenset({"live", "cancelling", "asking", "withdrawing"})
NODE_TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "skipped"})


class NodeState(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "status": "s",
        "attempt": "a",
        "retries_used": "r",
        "due_at": "d",
        "refused_since": "q",
        "error": "e",
        "error_message": "m",
        "output": "o",
        "approved": "h",
    },
):
    """One node that the run has reached."""

    status: NodeStatus = "live"
    # Only grows; 0 for nodes that never had an execution.
    attempt: int = 0
    retries_used: int = 0
    due_at: int | None = None
    refused_since: int | None = None
    error: str | None = None
    error_message: str | None = None
    output: dict[str, object] | None = None
    # What would run under another hash has to be allowed anew.
    approved: str | None = None


class RunState(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "phase": "s",
        "attempt_count": "a",
        "next_attempt_at": "w",
        "error": "x",
        "error_message": "m",
        "failed_node": "f",
        "nodes": "n",
        "taken_from": "t",
    },
):
    """The run as the machine sees it. A new run is `RunState()`, or what `retry.taken_over` makes of an earlier one;
    treat `nodes` as immutable."""

    phase: RunPhase = "queued"
    attempt_count: int = 0
    next_attempt_at: int | None = None
    error: str | None = None
    error_message: str | None = None
    failed_node: str | None = None
    nodes: dict[str, NodeState] = {}
    taken_from: str | None = None

    @property
    def status(self) -> RunStatus:
        """The run's status as the API names it."""
        phase = self.phase
        return "running" if phase == "failing" or phase == "cancelling" else phase

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will ever change again."""
        return self.phase in RUN_TERMINAL

    @property
    def next_due_at(self) -> int | None:
        """When `TimerDue` must come (epoch ms), or None: the run waits for results only."""
        if self.phase != "running":
            return None
        due = self.next_attempt_at
        for node in self.nodes.values():
            if node.due_at is not None and (due is None or node.due_at < due):
                due = node.due_at
        return due

    def live_nodes(self) -> list[str]:
        """Nodes with an execution that is not terminal."""
        return [node_id for node_id, node in self.nodes.items() if node.status in NODE_LIVE]

    @property
    def completed_node_count(self) -> int:
        """How many nodes succeeded."""
        return sum(1 for node in self.nodes.values() if node.status == "succeeded")


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(RunState)


def encode_state(state: RunState) -> bytes:
    """The cursor as JSON."""
    return _ENCODER.encode(state)


def decode_state(data: bytes | str) -> RunState:
    """The cursor from JSON; `{}` is a run that has not started."""
    return _DECODER.decode(data)
