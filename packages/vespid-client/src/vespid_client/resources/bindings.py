"""Which agent answers whom."""

from collections.abc import Mapping
from typing import Any

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.model import Model
from vespid_client.models.sessions import AgentBinding
from vespid_client.retries import Repeat
from vespid_client.route import Route, delete, get, post


class BindingPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    bindings: list[AgentBinding]
    next_cursor: str | None


class BindingAnswer(Model, frozen=True, kw_only=True):
    """One binding."""

    binding: AgentBinding


BINDINGS = "/v1/orgs/{org_id}/agent-bindings"
BINDING = f"{BINDINGS}/{{binding_id}}"
LIST_BINDINGS = get(BINDINGS, BindingPage)
CREATE_BINDING = post(BINDINGS, BindingAnswer, Repeat.KEYED)
CHANGE_BINDING = Route("PATCH", BINDING, BindingAnswer)
DELETE_BINDING = delete(BINDING)


class Bindings:
    """`client.bindings`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self) -> Listing[AgentBinding]:
        """All of them."""
        return listing(self._api, LIST_BINDINGS, lambda page: page.bindings)

    async def create(
        self,
        agent_id: str,
        dimension: str,
        match: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> AgentBinding:
        """Have an agent answer those whom `match` is of."""
        body = {"agentId": agent_id, "dimension": dimension, "priority": priority, "match": match, "metadata": metadata}
        given = {name: value for name, value in body.items() if value is not None}
        return (await self._api.call(CREATE_BINDING, body=given, key=idempotency_key)).binding

    async def update(self, binding_id: str, change: Mapping[str, Any]) -> AgentBinding:
        """Change some of it, in the API's spelling: `{"agentId": …, "priority": …}`."""
        return (await self._api.call(CHANGE_BINDING, body=change, path={"binding_id": binding_id})).binding

    async def delete(self, binding_id: str) -> None:
        """It counts no more."""
        await self._api.call(DELETE_BINDING, path={"binding_id": binding_id})
