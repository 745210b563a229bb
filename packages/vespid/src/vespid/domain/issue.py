"""What can be wrong with a workflow, and how it is told."""

from __future__ import annotations

import msgspec

BAD_REQUEST = "BAD_REQUEST"
GRAPH_NODE_MISSING = "GRAPH_NODE_MISSING"
GRAPH_EDGE_INVALID = "GRAPH_EDGE_INVALID"
CONDITION_EDGE_CONSTRAINTS = "CONDITION_EDGE_CONSTRAINTS"
GRAPH_CYCLE_DETECTED = "GRAPH_CYCLE_DETECTED"

ISSUES_MAX = 100


class Issue(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that is wrong: where (a dotted path into the DSL), and how to put it right."""

    code: str
    path: str
    message: str


class WorkflowInvalid(ValueError):
    """The DSL is not a workflow; `issues` says what was found (the first hundred)."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("; ".join(f"{issue.path}: {issue.message}" for issue in issues[:5]))
        self.issues = issues[:ISSUES_MAX]

    def details(self, prefix: str = "dsl") -> dict[str, object]:
        """`details` of the 400: `fieldErrors {path:[message]}`, and `issues` where the graph is at fault."""
        fields: dict[str, list[str]] = {}
        for issue in self.issues:
            fields.setdefault(".".join(filter(None, (prefix, issue.path))), []).append(issue.message)
        details: dict[str, object] = {"fieldErrors": fields}
        if graph := [issue for issue in self.issues if issue.code != BAD_REQUEST]:
            details["issues"] = [{"code": i.code, "path": i.path, "message": i.message} for i in graph]
        return details
