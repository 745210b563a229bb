"""A run drawn: its nodes, each under what it came after, how long each took and what it waits for."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from vespid.cli import moments
from vespid.cli.output import STYLES, Cell, Output, status

if TYPE_CHECKING:
    from vespid_client.models import Blocked, Run, RunEvent, Workflow

_MARKS = {"succeeded": "✓", "failed": "✗", "running": "●", "waiting": "…", "retrying": "↻", "skipped": "–"}
_ENDS = frozenset({"node_succeeded", "node_failed", "node_skipped"})


class Node(msgspec.Struct, frozen=True):
    """A node of the workflow, reached or not."""

    id: str
    type: str
    # The one under which it is drawn; None under the run.
    under: str | None


def say_run(
    out: Output, run: "Run", workflow: "Workflow", events: "Sequence[RunEvent]", *, with_outputs: bool = False
) -> None:
    """The run's facts, then its nodes as a tree."""
    out.fields(
        [
            ("run", (run.id, "bold")),
            ("workflow", f"{workflow.name} (revision {workflow.revision})"),
            ("status", status(run.status)),
            ("try", f"{run.attempt_count} of {run.max_attempts}"),
            ("started", moments.stamp(run.started_at) or f"not yet (asked for {moments.ago(run.created_at)})"),
            ("took", moments.between(run.started_at, run.finished_at)),
            ("next try", moments.ago(run.next_attempt_at)),
            ("error", (_error(run.error, run.error_message), "red")),
        ]
    )
    out.line("")
    steps = {step["nodeId"]: step for step in (run.output or {}).get("steps", [])}
    took = durations(events)
    blocked = {each.node_id: each for each in run.blocked_nodes}
    for lead, node in drawn(nodes_of(workflow.dsl)):
        step = steps.get(node.id)
        out.line(lead, *_node(node, step, took.get(node.id, ""), blocked.get(node.id)))
        if with_outputs and step is not None and "output" in step:
            _say_output(out, step["output"])


def durations(events: "Sequence[RunEvent]") -> dict[str, str]:
    """How long each node took, from its first start to its last end; to now where it is not over."""
    began: dict[str, str] = {}
    ended: dict[str, str | None] = {}
    for event in events:
        if event.node_id is None:
            continue
        if event.event_type == "node_started":
            began.setdefault(event.node_id, event.created_at)
            ended[event.node_id] = None
        elif event.event_type in _ENDS:
            ended[event.node_id] = event.created_at
    return {node: moments.between(at, ended.get(node)) for node, at in began.items()}


def nodes_of(dsl: Mapping[str, Any]) -> list[Node]:
    """The nodes in an order in which each comes behind what it is drawn under."""
    if "graph" not in dsl:
        return [Node(str(node["id"]), str(node["type"]), None) for node in dsl.get("nodes", [])]
    graph = dsl["graph"]
    types = {str(node_id): str(node["type"]) for node_id, node in graph.get("nodes", {}).items()}
    before: dict[str, list[str]] = {node_id: [] for node_id in types}
    for edge in graph.get("edges", []):
        if edge["to"] in before and edge["from"] in types:
            before[edge["to"]].append(edge["from"])
    ordered: list[Node] = []
    placed: set[str] = set()
    # A graph has no cycle; where one got in, what is left is drawn under the run.
    while len(ordered) < len(types):
        ready = [node_id for node_id in types if node_id not in placed and placed.issuperset(before[node_id])]
        for node_id in ready or [node_id for node_id in types if node_id not in placed]:
            # Where branches meet again, it goes on beside them and not in one of them.
            under = before[node_id][0] if len(before[node_id]) == 1 else None
            ordered.append(Node(node_id, types[node_id], under if under in placed else None))
            placed.add(node_id)
    return ordered


def drawn(nodes: Sequence[Node]) -> list[tuple[str, Node]]:
    """Each node behind the lines that lead to it."""
    below: dict[str | None, list[Node]] = {}
    for node in nodes:
        below.setdefault(node.under, []).append(node)

    def walk(under: str | None, lead: str) -> list[tuple[str, Node]]:
        lines: list[tuple[str, Node]] = []
        children = below.get(under, [])
        for at, child in enumerate(children):
            is_last = at == len(children) - 1
            lines.append((lead + ("└─ " if is_last else "├─ "), child))
            lines += walk(child.id, lead + ("   " if is_last else "│  "))
        return lines

    return walk(None, "")


def _node(node: Node, step: Mapping[str, Any] | None, took: str, blocked: "Blocked | None") -> list[Cell]:
    state = "" if step is None else str(step.get("status", ""))
    style = STYLES.get(state, "dim")
    cells: list[Cell] = [(f"{_MARKS.get(state, '·')} ", style), (node.id, "bold" if step else "dim")]
    cells.append((f"  {node.type}", "dim"))
    cells.append((f"  {state or 'not reached'}", style))
    if took and state != "skipped":
        cells.append(f"  {took}")
    if blocked is not None:
        cells.append((f"  {_waits_for(blocked)}", "yellow"))
    if step is not None and step.get("error"):
        cells.append((f"  {_error(step['error'], step.get('errorMessage'))}", "red"))
    return cells


def _waits_for(blocked: "Blocked") -> str:
    until = moments.ago(blocked.timeout_at, datetime.now(UTC))
    if blocked.kind == "approval":
        ids = blocked.approval_ids or ([blocked.approval_id] if blocked.approval_id else [])
        return f"waits for people ({until} at the latest): vespid approve {' '.join(map(str, ids))}"
    return f"waits for the result of {blocked.kind} ({until} at the latest)"


def _say_output(out: Output, value: Any) -> None:
    import json

    if isinstance(value, Mapping) and isinstance(value.get("stdout"), str):
        for name in ("stdout", "stderr"):
            if value.get(name):
                out.block(str(value[name]).rstrip("\n"), indent="      ")
        return
    out.exact(json.dumps(value, indent=2, ensure_ascii=False), indent="      ")


def _error(code: Any, message: Any) -> str:
    return "" if not code else f"{code}, {message}" if message and message != code else str(code)
