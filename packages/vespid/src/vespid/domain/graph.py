"""The graph of a workflow: its edges checked, its nodes put in order, and what follows from their places."""

from __future__ import annotations

import heapq

import msgspec

from vespid.domain.issue import (
    BAD_REQUEST,
    CONDITION_EDGE_CONSTRAINTS,
    GRAPH_CYCLE_DETECTED,
    GRAPH_EDGE_INVALID,
    GRAPH_NODE_MISSING,
    Issue,
)
from vespid.domain.plan import Edge, PlanNode


def check_edges(nodes: dict[str, PlanNode], edges: list[tuple[str, Edge]]) -> list[Issue]:
    """What is wrong with edges, each given with its path: missing ends, repetitions, kinds that do not fit."""
    issues: list[Issue] = []
    seen: set[Edge] = set()
    for path, edge in edges:
        for side, node_id in (("from", edge.source), ("to", edge.target)):
            if node_id not in nodes:
                message = f"there is no node `{node_id}`; add it or remove the edge"
                issues.append(Issue(GRAPH_NODE_MISSING, f"{path}.{side}", message))
        if edge in seen:
            issues.append(Issue(GRAPH_EDGE_INVALID, path, "the same edge is there twice; remove one"))
        seen.add(edge)
        source = nodes.get(edge.source)
        if source is not None:
            issues += _check_kind(path, edge, source)
    return issues


def _check_kind(path: str, edge: Edge, source: PlanNode) -> list[Issue]:
    if source.type == "condition" and edge.kind == "always":
        message = f"leaves the condition `{source.id}`; give it kind `cond_true` or `cond_false`"
    elif source.type != "condition" and edge.kind != "always":
        message = f"`{edge.kind}` is for edges that leave a condition, `{source.id}` is none; use `always`"
    else:
        return []
    return [Issue(CONDITION_EDGE_CONSTRAINTS, f"{path}.kind", message)]


def connect(nodes: dict[str, PlanNode], edges: list[Edge], path: str) -> tuple[list[PlanNode], list[Issue]]:
    """The nodes in topological order with their edges, ranks and what depends on their places; or what is wrong."""
    incoming: dict[str, list[Edge]] = {node_id: [] for node_id in nodes}
    outgoing: dict[str, list[Edge]] = {node_id: [] for node_id in nodes}
    for edge in edges:
        incoming[edge.target].append(edge)
        outgoing[edge.source].append(edge)
    order = _topological(list(nodes), incoming, outgoing)
    if len(order) < len(nodes):
        stuck = _on_cycles(nodes.keys() - set(order), incoming, outgoing)
        message = f"these nodes wait for each other: {', '.join(sorted(stuck))}; remove an edge between them"
        return [], [Issue(GRAPH_CYCLE_DETECTED, path, message)]
    issues = _check_references(nodes, order, incoming, path)
    joins = _joins_after(nodes, order, outgoing)
    placed = [
        msgspec.structs.replace(
            nodes[node_id],
            rank=rank,
            incoming=tuple(incoming[node_id]),
            outgoing=tuple(outgoing[node_id]),
            failure_drains=joins[node_id] == {False},
        )
        for rank, node_id in enumerate(order)
    ]
    return placed, issues


def _topological(ids: list[str], incoming: dict[str, list[Edge]], outgoing: dict[str, list[Edge]]) -> list[str]:
    """As many nodes as can be ordered; among those that are free, the one written first comes first."""
    position = {node_id: index for index, node_id in enumerate(ids)}
    waits_for = {node_id: len(incoming[node_id]) for node_id in ids}
    free = [position[node_id] for node_id in ids if waits_for[node_id] == 0]
    order: list[str] = []
    while free:
        node_id = ids[heapq.heappop(free)]
        order.append(node_id)
        for edge in outgoing[node_id]:
            waits_for[edge.target] -= 1
            if waits_for[edge.target] == 0:
                heapq.heappush(free, position[edge.target])
    return order


def _on_cycles(stuck: set[str], incoming: dict[str, list[Edge]], outgoing: dict[str, list[Edge]]) -> set[str]:
    """Of the nodes that could not be ordered, those that are not merely behind a cycle."""
    remaining = set(stuck)
    while dead_ends := {n for n in remaining if not any(edge.target in remaining for edge in outgoing[n])}:
        remaining -= dead_ends
    return remaining


def _check_references(
    nodes: dict[str, PlanNode], order: list[str], incoming: dict[str, list[Edge]], path: str
) -> list[Issue]:
    """A node may name the outputs of nodes that are certainly over when it starts: those on a way to it."""
    bit = {node_id: 1 << rank for rank, node_id in enumerate(order)}
    before: dict[str, int] = {}
    issues: list[Issue] = []
    for node_id in order:
        reach = 0
        for edge in incoming[node_id]:
            reach |= before[edge.source] | bit[edge.source]
        before[node_id] = reach
        for named in sorted(nodes[node_id].references):
            where = f"{path}.{node_id}.config"
            if named not in nodes:
                issues.append(Issue(BAD_REQUEST, where, f"names the output of `{named}`, and there is no such node"))
            elif not reach & bit[named]:
                issues.append(
                    Issue(BAD_REQUEST, where, f"names the output of `{named}`, which does not come before it")
                )
    return issues


def _joins_after(nodes: dict[str, PlanNode], order: list[str], outgoing: dict[str, list[Edge]]) -> dict[str, set[bool]]:
    """For each node the failFast of all joins that come after it."""
    after: dict[str, set[bool]] = {}
    for node_id in reversed(order):
        found: set[bool] = set()
        for edge in outgoing[node_id]:
            found |= after[edge.target]
            target = nodes[edge.target]
            if target.type == "parallel.join":
                found.add(target.fail_fast)
        after[node_id] = found
    return after
