"""A workflow made ready to run: what every step would otherwise compute again.

Both DSL versions become one `Plan`, computed once per workflow revision and cacheable for ever. A list is a graph
whose every node follows the one before it; a condition in a list is followed over its `cond_true` edge, so that a false
one skips the rest.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vespid.domain.condition import ConditionPath
from vespid.domain.policy import Backoff
from vespid.domain.selector import Requirement, Selector
from vespid.domain.template import Template
from vespid_runtime.tools.approval import ApprovalRule

NodeType = Literal["connector.action", "agent.execute", "agent.run", "http.request", "condition", "parallel.join"]
Placement = Literal["executor", "cloud", "gateway"]
OnLost = Literal["fail", "resend", "wait"]
OnUnavailable = Literal["wait", "fail"]
EdgeKind = Literal["always", "cond_true", "cond_false"]

# Nodes that need no I/O: the machine runs them within a step, and their outputs live in the cursor.
INLINE_TYPES: frozenset[str] = frozenset({"condition", "parallel.join"})


class Schedule(msgspec.Struct, frozen=True, rename="camel"):
    """What to do while no executor is free."""

    on_unavailable: OnUnavailable = "wait"
    max_wait_ms: int = 600_000


class Edge(msgspec.Struct, frozen=True):
    """From one node to another, taken always or on one outcome of a condition."""

    source: str
    target: str
    kind: EdgeKind = "always"


class ConditionRule(msgspec.Struct, frozen=True):
    """A condition taken apart."""

    path: ConditionPath
    op: str
    value: Template


class PlanNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node, everything static about it known."""

    id: str
    type: NodeType
    # Position in a topological order of the graph; equal inputs give equal orders.
    rank: int
    # The config with spellings normalised; strings may hold templates.
    config: Template
    incoming: tuple[Edge, ...] = ()
    outgoing: tuple[Edge, ...] = ()
    # Nodes whose outputs this node's templates and condition path name: what must be loaded when it starts, often none.
    references: frozenset[str] = frozenset()
    # None: the run's budget.
    retry: Backoff | None = None
    on_lost: OnLost = "fail"
    # None: the policy's default.
    timeout_ms: int | None = None
    # Who has to allow it before it runs; None: nobody.
    approval: ApprovalRule | None = None
    placement: Placement | None = None
    schedule: Schedule = Schedule()
    selector: Selector = Selector()
    # None for inline nodes, and where the selector holds templates: then both are made when the node starts.
    requirement: Requirement | None = None
    signature: str = ""
    # The `auth.secretId` that travels as `execute.secret`.
    auth_secret: str | None = None
    # Secrets named by `{{secrets.<id>}}` in the config.
    named_secrets: tuple[str, ...] = ()
    # agent.run only: the tools it may call, and which of them a person has to allow, by id or glob.
    tools_allow: tuple[str, ...] = ()
    tool_approvals: dict[str, ApprovalRule] = {}
    # conditions only
    condition: ConditionRule | None = None
    # parallel.join only
    fail_fast: bool = True
    # Whether the final failure of this node lets the other branches run on: every join after it says failFast false.
    failure_drains: bool = False


class Plan(msgspec.Struct, frozen=True):
    """A whole workflow. `nodes` is in topological order."""

    nodes: tuple[PlanNode, ...]
    by_id: dict[str, PlanNode]
    roots: tuple[str, ...]
    version: Literal["v2", "v3"]
    # Of the row that it was read from.
    family_id: str = ""
