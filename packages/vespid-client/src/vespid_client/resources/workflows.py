"""Workflows: drafted, validated, published."""

from collections.abc import Mapping
from typing import Any

import msgspec

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.model import Model
from vespid_client.models.workflows import Graph, Published, Webhook, Workflow
from vespid_client.retries import Repeat
from vespid_client.route import get, post, put


class WorkflowPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    workflows: list[Workflow]
    next_cursor: str | None


class WorkflowAnswer(Model, frozen=True, kw_only=True):
    """One revision."""

    workflow: Workflow


class Validated(Model, frozen=True, kw_only=True):
    """A workflow that could be published."""

    ok: bool
    graph: Graph


class GraphAnswer(Model, frozen=True, kw_only=True):
    """One graph."""

    graph: Graph


class WebhookAnswer(Model, frozen=True, kw_only=True):
    """A new token."""

    webhook: Webhook


WORKFLOWS = "/v1/orgs/{org_id}/workflows"
WORKFLOW = f"{WORKFLOWS}/{{workflow_id}}"
LIST_WORKFLOWS = get(WORKFLOWS, WorkflowPage)
GET_WORKFLOW = get(WORKFLOW, WorkflowAnswer)
CREATE_WORKFLOW = post(WORKFLOWS, WorkflowAnswer, Repeat.KEYED)
CHANGE_WORKFLOW = put(WORKFLOW, WorkflowAnswer)
# The first publish shows the webhook's token.
PUBLISH = post(f"{WORKFLOW}/publish", Published, Repeat.NEVER)
NEW_DRAFT = post(f"{WORKFLOW}/drafts", WorkflowAnswer, Repeat.KEYED)
LIST_REVISIONS = get(f"{WORKFLOW}/revisions", WorkflowPage)
VALIDATE = post(f"{WORKFLOWS}/validate", Validated, Repeat.SAFE)
WORKFLOW_GRAPH = get(f"{WORKFLOW}/graph", GraphAnswer)
ROTATE_WEBHOOK = post(f"{WORKFLOW}/rotate-webhook", WebhookAnswer, Repeat.NEVER)


class Workflows:
    """`client.workflows`. An id is that of one revision."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, status: str | None = None, name: str | None = None, newest: bool = False) -> Listing[Workflow]:
        """Every revision of every workflow, the newest first.

        `status`: only `draft` or `published` ones; `name`: only those with this in their name; `newest`: of the
        revisions of one workflow only the newest of these.
        """
        query = {"status": status, "name": name, "newest": "true" if newest else None}
        return listing(self._api, LIST_WORKFLOWS, lambda page: page.workflows, query=query)

    async def get(self, workflow_id: str) -> Workflow:
        """One revision."""
        return (await self._api.call(GET_WORKFLOW, path={"workflow_id": workflow_id})).workflow

    async def create(
        self,
        name: str,
        dsl: Mapping[str, Any],
        *,
        editor_state: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Workflow:
        """Begin one, as the draft of its first revision. Raises BadRequest with `field_errors` of the DSL."""
        body: dict[str, Any] = {"name": name, "dsl": dsl}
        if editor_state is not None:
            body["editorState"] = editor_state
        return (await self._api.call(CREATE_WORKFLOW, body=body, key=idempotency_key)).workflow

    async def update(
        self,
        workflow_id: str,
        *,
        name: str | msgspec.UnsetType = msgspec.UNSET,
        dsl: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        editor_state: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET,
        version: int | msgspec.UnsetType = msgspec.UNSET,
    ) -> Workflow:
        """Change a draft; what is left out stays. `version`: that of the draft as it was read.

        Raises Conflict for what is published, and for what has another version by now.
        """
        given = {"name": name, "dsl": dsl, "editorState": editor_state, "version": version}
        body = {field: value for field, value in given.items() if value is not msgspec.UNSET}
        return (await self._api.call(CHANGE_WORKFLOW, body=body, path={"workflow_id": workflow_id})).workflow

    async def publish(self, workflow_id: str) -> Published:
        """Make a draft runnable, for good. A webhook's token is in the answer to a family's first publish only."""
        return await self._api.call(PUBLISH, path={"workflow_id": workflow_id})

    async def new_draft(self, workflow_id: str, *, idempotency_key: str | None = None) -> Workflow:
        """A new revision, as a draft with the content of this one."""
        return (await self._api.call(NEW_DRAFT, key=idempotency_key, path={"workflow_id": workflow_id})).workflow

    def revisions(self, workflow_id: str) -> Listing[Workflow]:
        """Those of the family that this one belongs to, the newest first."""
        return listing(self._api, LIST_REVISIONS, lambda page: page.workflows, path={"workflow_id": workflow_id})

    async def validate(self, dsl: Mapping[str, Any]) -> Graph:
        """What would be run. Raises BadRequest with `field_errors`, as publishing would."""
        return (await self._api.call(VALIDATE, body={"dsl": dsl})).graph

    async def graph(self, workflow_id: str) -> Graph:
        """A kept revision as the run machine sees it."""
        return (await self._api.call(WORKFLOW_GRAPH, path={"workflow_id": workflow_id})).graph

    async def rotate_webhook(self, workflow_id: str) -> Webhook:
        """Another token, shown this once; the old one stops working at once."""
        return (await self._api.call(ROTATE_WEBHOOK, path={"workflow_id": workflow_id})).webhook
