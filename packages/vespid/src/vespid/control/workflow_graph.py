"""The graph that a run would go by: of what is kept, and, with what is wrong, of what is not saved yet."""

from typing import Any, Literal

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.workflows import validated
from vespid.domain.plan import EdgeKind, NodeType, Plan
from vespid.domain.workflow import parse
from vespid.errors import not_found
from vespid.store.workflows import read_workflow

EdgeLabel = Literal["true", "false"]
_LABELS: dict[EdgeKind, EdgeLabel] = {"cond_true": "true", "cond_false": "false"}


class UnsavedWorkflow(msgspec.Struct, frozen=True):
    """A workflow to look at."""

    dsl: dict[str, Any]


class GraphNode(msgspec.Struct, frozen=True):
    """`level`: the length of the longest way to it, 0 where nothing comes before it."""

    id: str
    type: NodeType
    level: int


class GraphEdge(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """`label`: the outcome of a condition on which it is taken; others are always."""

    source: str
    target: str
    label: EdgeLabel | msgspec.UnsetType = msgspec.UNSET


class Graph(msgspec.Struct, frozen=True):
    """The nodes in an order in which each comes after those before it; a list is a graph too."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]


class GraphAnswer(msgspec.Struct, frozen=True):
    """The graph of what is kept."""

    graph: Graph


class Validated(msgspec.Struct, frozen=True):
    """It is valid."""

    ok: Literal[True]
    graph: Graph


@post(
    "/v1/orgs/{org_id:str}/workflows/validate",
    guards=[org_member],
    status_code=200,
    operation_id="validateWorkflow",
    tags=["workflows"],
)
async def validate_workflow(data: JSONBody[UnsavedWorkflow]) -> Validated:
    """Check a workflow as creating or publishing it would, and keep nothing."""
    return Validated(True, graph_of(validated(data.dsl).plan))


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/graph",
    guards=[org_member],
    operation_id="getWorkflowGraph",
    tags=["workflows"],
)
async def get_workflow_graph(workflow_id: FromPath[str], tenant: NamedDependency[TenantContext]) -> GraphAnswer:
    """The graph of a revision, whether or not this server still has its connectors."""
    row = row_id(workflow_id)
    async with tenant.transaction() as connection:
        workflow = await read_workflow(connection, row)
    if workflow is None:
        raise not_found()
    return GraphAnswer(graph_of(parse(workflow.dsl).plan))


def graph_of(plan: Plan) -> Graph:
    """The graph as the run machine sees it."""
    level: dict[str, int] = {}
    # The plan is in topological order: what comes before a node has its level already.
    for node in plan.nodes:
        level[node.id] = max((level[edge.source] + 1 for edge in node.incoming), default=0)
    return Graph(
        [GraphNode(node.id, node.type, level[node.id]) for node in plan.nodes],
        [
            GraphEdge(edge.source, edge.target, _LABELS.get(edge.kind, msgspec.UNSET))
            for node in plan.nodes
            for edge in node.outgoing
        ],
    )


routes = [validate_workflow, get_workflow_graph]
