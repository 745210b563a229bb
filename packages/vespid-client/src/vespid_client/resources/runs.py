"""Runs: started, found, followed."""

from typing import Any

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.model import Model
from vespid_client.models.runs import Attempt, Run, RunEvent
from vespid_client.retries import Repeat
from vespid_client.route import get, post
from vespid_client.run_handle import RunAnswer, RunHandle


class RunPage(Model, frozen=True, kw_only=True):
    """The newest first. Outputs of nodes are left out here."""

    runs: list[Run]
    next_cursor: str | None


START_RUN = post("/v1/orgs/{org_id}/workflows/{workflow_id}/runs", RunAnswer, Repeat.KEYED)
LIST_RUNS = get("/v1/orgs/{org_id}/runs", RunPage)


class Runs:
    """`client.runs`. Where a run is named by its id alone, `workflow_id` saves the question which workflow's it is."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def start(self, workflow_id: str, input: Any = None, *, idempotency_key: str | None = None) -> RunHandle:
        """Start a published workflow. The run is committed when this returns. Raises Conflict for a draft."""
        body = {"input": input}
        run = (await self._api.call(START_RUN, body=body, key=idempotency_key, path={"workflow_id": workflow_id})).run
        return RunHandle(self._api, run.id, run.workflow_id, run)

    def list(
        self, *, workflow_id: str | None = None, status: str | None = None, trigger_type: str | None = None
    ) -> Listing[Run]:
        """The organization's runs, the newest first, without the outputs of nodes."""
        query = {"workflowId": workflow_id, "status": status, "triggerType": trigger_type}
        return listing(self._api, LIST_RUNS, lambda page: page.runs, query=query)

    def handle(self, run_id: str, workflow_id: str | None = None) -> RunHandle:
        """A run by its id, for `follow` and `result`; nothing is asked yet."""
        return RunHandle(self._api, run_id, workflow_id)

    async def get(self, run_id: str, workflow_id: str | None = None) -> Run:
        """The run as it stands."""
        return await self.handle(run_id, workflow_id).get()

    async def cancel(self, run_id: str, workflow_id: str | None = None) -> Run:
        """Stop it. A finished run answers unchanged."""
        return await self.handle(run_id, workflow_id).cancel()

    async def retry(
        self,
        run_id: str,
        workflow_id: str | None = None,
        *,
        from_node_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> RunHandle:
        """A new run that goes on where a finished one failed, or at a node. Raises Conflict where it still runs."""
        handle = self.handle(run_id, workflow_id)
        return await handle.retry(from_node_id=from_node_id, idempotency_key=idempotency_key)

    def events(self, run_id: str, workflow_id: str | None = None, *, after_seq: int = 0) -> Listing[RunEvent]:
        """What has happened in it so far."""
        return self.handle(run_id, workflow_id).events(after_seq=after_seq)

    async def output(self, run_id: str, node_id: str, workflow_id: str | None = None) -> Any:
        """What a node answered, in full."""
        return await self.handle(run_id, workflow_id).output(node_id)

    def attempts(self, run_id: str, workflow_id: str | None = None, *, unfinished: bool = False) -> Listing[Attempt]:
        """What it has sent where, and what became of it; `unfinished`: only what is not over."""
        return self.handle(run_id, workflow_id).attempts(unfinished=unfinished)
