"""Workflows: revisions, drafts that change and published ones that do not."""

from typing import Any

import msgspec

from vespid_client.models.model import Model


class Workflow(Model, frozen=True, kw_only=True):
    """One revision. Those of one family are the same workflow over time."""

    id: str
    organization_id: str
    family_id: str
    revision: int
    source_workflow_id: str | None
    name: str
    status: str
    version: int
    dsl: dict[str, Any]
    editor_state: dict[str, Any] | None
    created_by_user_id: str | None
    published_at: str | None
    created_at: str
    updated_at: str


class Webhook(Model, frozen=True, kw_only=True):
    """Where to send; the token is all that a sender needs, and is shown this once."""

    token: str
    url: str


class Published(Model, frozen=True, kw_only=True):
    """What was published; `webhook` at a family's first publish only."""

    workflow: Workflow
    webhook: Webhook | None = None


class GraphNode(Model, frozen=True, kw_only=True):
    """A node; those of one level can run at once."""

    id: str
    type: str
    level: int


class GraphEdge(Model, frozen=True, kw_only=True):
    """What comes after what; `label` names the branch of a condition."""

    from_: str = msgspec.field(name="from")
    to: str
    label: str | None = None


class Graph(Model, frozen=True, kw_only=True):
    """A workflow as the run machine sees it."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]
