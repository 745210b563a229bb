"""Parsing and validating a workflow's DSL, versions v2 and v3, into a `Workflow` with its `Plan`.

Everything about a workflow that can be known before it runs is checked here and told with its path; keys that are not
known are ignored, as everywhere in request bodies. Sizes are bounded before anything is looked at.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal, cast

import msgspec

from vespid.domain import cron
from vespid.domain.graph import check_edges, connect
from vespid.domain.issue import BAD_REQUEST, GRAPH_EDGE_INVALID, Issue, WorkflowInvalid
from vespid.domain.node_config import Config
from vespid.domain.node_reader import ConnectorCheck, NodeReader, SecretCheck, shape_issue
from vespid.domain.plan import Edge, EdgeKind, Plan, PlanNode

__all__ = ["ConnectorCheck", "Issue", "Trigger", "Workflow", "WorkflowInvalid", "parse"]

NODES_MAX = 500
EDGES_MAX = 2_000
DEPTH_MAX = 32
VALUES_MAX = 50_000
STRING_MAX_CHARS = 200_000
CRON_MAX_CHARS = 200

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID_RULE = "must be 1 to 64 of A-Z a-z 0-9 _ -"
_EDGE_KINDS: tuple[EdgeKind, ...] = ("always", "cond_true", "cond_false")


class Trigger(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How runs start. `cron` and `timezone` mean something for `trigger.cron` only."""

    type: Literal["trigger.manual", "trigger.webhook", "trigger.cron"]
    cron: str | None = None
    timezone: str = "UTC"


class Workflow(msgspec.Struct, frozen=True):
    """A valid workflow."""

    version: Literal["v2", "v3"]
    trigger: Trigger
    plan: Plan


class _CronConfig(Config):
    cron: str | None = None
    timezone: str | None = None


class _TriggerShape(Config):
    type: Literal["trigger.manual", "trigger.webhook", "trigger.cron"]
    config: _CronConfig | None = None


def parse(
    dsl: object, *, check_connector: ConnectorCheck | None = None, needs_secret: SecretCheck | None = None
) -> Workflow:
    """The workflow of a decoded DSL document (or of its JSON as bytes). Raises WorkflowInvalid with what was found.

    `check_connector` and `needs_secret` are asked where a workflow is written; stored revisions are parsed without.
    """
    if isinstance(dsl, (bytes, msgspec.Raw)):
        try:
            dsl = msgspec.json.decode(dsl)
        except (msgspec.DecodeError, RecursionError) as error:
            raise WorkflowInvalid([Issue(BAD_REQUEST, "", f"not JSON: {error}")]) from error
    if problem := _oversize(dsl):
        raise WorkflowInvalid([problem])
    if not isinstance(dsl, dict):
        raise WorkflowInvalid([Issue(BAD_REQUEST, "", "must be an object with version, trigger and nodes or graph")])
    version = dsl.get("version")
    if version not in ("v2", "v3"):
        raise WorkflowInvalid([Issue(BAD_REQUEST, "version", "must be `v2` (a list) or `v3` (a graph)")])
    reading = _Reading(check_connector, needs_secret)
    trigger = reading.trigger(dsl.get("trigger"))
    plan = reading.list_plan(dsl.get("nodes")) if version == "v2" else reading.graph_plan(dsl.get("graph"))
    if reading.issues or trigger is None or plan is None:
        raise WorkflowInvalid(reading.issues)
    return Workflow(version, trigger, plan)


class _Reading:
    """One document being read."""

    def __init__(self, check_connector: ConnectorCheck | None, needs_secret: SecretCheck | None) -> None:
        self._reader = NodeReader(check_connector, needs_secret)
        self.issues = self._reader.issues
        self._report = self._reader.report

    def trigger(self, raw: object) -> Trigger | None:
        try:
            shape = msgspec.convert(raw, _TriggerShape)
        except msgspec.ValidationError as error:
            self.issues.append(shape_issue(error, _TriggerShape, "trigger"))
            return None
        if shape.type != "trigger.cron":
            return Trigger(shape.type)
        expression = shape.config.cron if shape.config else None
        timezone = shape.config.timezone if shape.config else None
        if expression is None or len(expression) > CRON_MAX_CHARS:
            self._report("trigger.config.cron", 'must be a cron expression of five fields, like "0 3 * * *"')
            return None
        try:
            cron.validate(expression, timezone or "UTC")
        except cron.TimezoneInvalid as error:
            self._report("trigger.config.timezone", str(error))
            return None
        except cron.CronInvalid as error:
            self._report("trigger.config.cron", str(error))
            return None
        return Trigger(shape.type, expression, timezone or "UTC")

    def list_plan(self, raw: object) -> Plan | None:
        """v2: each node after the one before it."""
        if not isinstance(raw, list) or not raw or len(raw) > NODES_MAX:
            self._report("nodes", f"must be a list of 1 to {NODES_MAX} nodes")
            return None
        nodes: dict[str, PlanNode] = {}
        for index, item in enumerate(raw):
            path = f"nodes.{index}"
            node_id = item.get("id") if isinstance(item, dict) else None
            if not isinstance(node_id, str) or not _ID.fullmatch(node_id):
                self._report(f"{path}.id", _ID_RULE)
            elif node_id in nodes:
                self._report(f"{path}.id", f"`{node_id}` is already taken; ids are unique")
            elif node := self._reader.read(node_id, item, path):
                nodes[node_id] = node
        if self.issues:
            return None
        ordered = list(nodes.values())
        edges = [
            Edge(before.id, after.id, "cond_true" if before.type == "condition" else "always")
            for before, after in itertools.pairwise(ordered)
        ]
        return self._plan("v2", nodes, edges, "nodes")

    def graph_plan(self, raw: object) -> Plan | None:
        """v3: nodes by id, and edges."""
        given = raw.get("nodes") if isinstance(raw, dict) else None
        if not isinstance(raw, dict) or not isinstance(given, dict) or not 0 < len(given) <= NODES_MAX:
            self._report("graph.nodes", f"must be an object of 1 to {NODES_MAX} nodes by id")
            return None
        nodes: dict[str, PlanNode] = {}
        for node_id, item in given.items():
            path = f"graph.nodes.{node_id}"
            own = item.get("id", node_id) if isinstance(item, dict) else node_id
            if not isinstance(node_id, str) or not _ID.fullmatch(node_id):
                self._report(path, f"the id {_ID_RULE}")
            elif own != node_id:
                self._report(f"{path}.id", f"differs from its key `{node_id}`; leave it out")
            elif node := self._reader.read(node_id, item, path):
                nodes[node_id] = node
        # Edges are checked against all ids that were written, so that a bad node is not reported twice.
        edges = self._edges(raw.get("edges", []))
        bad = given.keys() - nodes.keys()
        sound = [(path, edge) for path, edge in edges if edge.source not in bad and edge.target not in bad]
        self.issues += check_edges(nodes, sound)
        if self.issues:
            return None
        return self._plan("v3", nodes, [edge for _, edge in edges], "graph.nodes")

    def _edges(self, raw: object) -> list[tuple[str, Edge]]:
        if not isinstance(raw, list) or len(raw) > EDGES_MAX:
            self._report("graph.edges", f"must be a list of at most {EDGES_MAX} edges")
            return []
        edges: list[tuple[str, Edge]] = []
        ids: set[str] = set()
        for index, item in enumerate(raw):
            path = f"graph.edges.{index}"
            if message := _edge_fault(item, ids):
                self.issues.append(Issue(GRAPH_EDGE_INVALID, path, message))
                continue
            ids.add(item["id"])
            edges.append((path, Edge(item["from"], item["to"], cast(EdgeKind, item.get("kind") or "always"))))
        return edges

    def _plan(self, version: Literal["v2", "v3"], nodes: dict[str, PlanNode], edges: list[Edge], path: str) -> Plan:
        ordered, issues = connect(nodes, edges, path)
        self.issues += issues
        return Plan(
            nodes=tuple(ordered),
            by_id={node.id: node for node in ordered},
            roots=tuple(node.id for node in ordered if not node.incoming),
            version=version,
        )


def _edge_fault(item: object, ids: set[str]) -> str | None:
    if not isinstance(item, dict):
        return "must be an object {id, from, to, kind?}"
    edge_id = item.get("id")
    if not isinstance(edge_id, str) or not _ID.fullmatch(edge_id):
        return f"its id {_ID_RULE}"
    if edge_id in ids:
        return f"the id `{edge_id}` is already taken; ids are unique"
    if not isinstance(item.get("from"), str) or not isinstance(item.get("to"), str):
        return "`from` and `to` must be ids of nodes"
    if (item.get("kind") or "always") not in _EDGE_KINDS:
        return "its kind must be `always`, `cond_true` or `cond_false`"
    return None


def _oversize(document: object) -> Issue | None:
    """The first bound that is broken; walks without recursion, so that nothing in it can hurt the walk."""
    ahead: list[tuple[object, int]] = [(document, 0)]
    seen = 0
    while ahead:
        value, depth = ahead.pop()
        seen += 1
        if depth > DEPTH_MAX:
            return Issue(BAD_REQUEST, "", f"nested more than {DEPTH_MAX} levels deep; flatten it")
        if seen > VALUES_MAX:
            return Issue(BAD_REQUEST, "", f"more than {VALUES_MAX} values; make it several workflows")
        if isinstance(value, str) and len(value) > STRING_MAX_CHARS:
            return Issue(BAD_REQUEST, "", f"a string of more than {STRING_MAX_CHARS} characters; fetch it when it runs")
        if isinstance(value, dict):
            ahead += ((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            ahead += ((item, depth + 1) for item in value)
    return None
