"""One run: followed while it happens, waited for, cancelled, retried."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vespid_client.api import Api
from vespid_client.comeback import Comeback
from vespid_client.errors import ApiError, ConnectionFailed, RunFailed
from vespid_client.listing import Listing, listing
from vespid_client.models.model import Model
from vespid_client.models.runs import Attempt, Run, RunEvent
from vespid_client.retries import Repeat
from vespid_client.route import Route, get, post
from vespid_client.sse import EventParser, decoded


class RunAnswer(Model, frozen=True, kw_only=True):
    """One run."""

    run: Run


class EventPage(Model, frozen=True, kw_only=True):
    """The oldest first."""

    events: list[RunEvent]
    next_cursor: str | None


class AttemptPage(Model, frozen=True, kw_only=True):
    """By request."""

    attempts: list[Attempt]
    next_cursor: str | None


class NodeOutput(Model, frozen=True, kw_only=True):
    """What a node answered, in full."""

    output: Any


FIND_RUN = get("/v1/orgs/{org_id}/runs/{run_id}", RunAnswer)
RUN = "/v1/orgs/{org_id}/workflows/{workflow_id}/runs/{run_id}"
GET_RUN = get(RUN, RunAnswer)
CANCEL_RUN = post(f"{RUN}/cancel", RunAnswer, Repeat.SAFE)
RETRY_RUN = post(f"{RUN}/retry", RunAnswer, Repeat.KEYED)
LIST_EVENTS = get(f"{RUN}/events", EventPage)
FOLLOW_RUN: Route[None] = Route("GET", f"{RUN}/stream", type(None))
LIST_ATTEMPTS = get(f"{RUN}/attempts", AttemptPage)
NODE_OUTPUT = get(f"{RUN}/nodes/{{node_id}}/output", NodeOutput)

# How long a follower tries to reach a server that does not answer.
PATIENCE_S = 120.0


class RunHandle:
    """One run, by its id; where the workflow is not given it is asked for once."""

    def __init__(self, api: Api, run_id: str, workflow_id: str | None = None, accepted: Run | None = None) -> None:
        self._api = api
        self._workflow_id = workflow_id
        self.id = run_id
        # As the server accepted it; None where this client did not start it.
        self.accepted = accepted
        # Of the last event that was followed.
        self._seq = 0

    def __repr__(self) -> str:
        return f"RunHandle({self.id!r})"

    async def get(self) -> Run:
        """The run as it stands."""
        if self._workflow_id is None:
            run = (await self._api.call(FIND_RUN, path={"run_id": self.id})).run
            self._workflow_id = run.workflow_id
            return run
        return (await self._api.call(GET_RUN, path=await self._path())).run

    async def follow(self, *, after_seq: int = 0) -> AsyncGenerator[RunEvent, None]:
        """What happens in it, as it happens: each event behind `after_seq` once and in order, to the last.

        A lost connection is taken up again where it was lost. Raises ConnectionFailed when the server has not been
        reached for two minutes.
        """
        seq = after_seq
        comeback = Comeback(PATIENCE_S, self._api.watch)
        while True:
            failure: ApiError | ConnectionFailed | None = None
            try:
                async with aclosing(self._connected(seq, comeback)) as events:
                    async for event in events:
                        if event.seq <= seq:
                            continue
                        seq = event.seq
                        yield event
                        if event.is_terminal:
                            return
                if (await self.get()).is_finished and not await self._has_more(seq):
                    return
            except (ApiError, ConnectionFailed) as error:
                failure = error
            await comeback.wait(failure)

    async def result(self, *, timeout: float | None = None) -> Run:
        """Wait for its end. Raises RunFailed unless it succeeded, TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            async with aclosing(self.follow(after_seq=self._seq)) as events:
                async for event in events:
                    self._seq = event.seq
            run = await self.get()
        if run.status != "succeeded":
            raise RunFailed(run)
        return run

    async def cancel(self) -> Run:
        """Stop it; work that runs is cancelled on its agent. A finished run answers unchanged."""
        return (await self._api.call(CANCEL_RUN, path=await self._path())).run

    async def retry(self, *, from_node_id: str | None = None, idempotency_key: str | None = None) -> "RunHandle":
        """A new run that takes over what had succeeded before `from_node_id`, or before what failed.

        Raises Conflict where this one is not finished.
        """
        body = {} if from_node_id is None else {"fromNodeId": from_node_id}
        run = (await self._api.call(RETRY_RUN, body=body, key=idempotency_key, path=await self._path())).run
        return RunHandle(self._api, run.id, run.workflow_id, run)

    async def output(self, node_id: str) -> Any:
        """What a node answered, in full."""
        return (await self._api.call(NODE_OUTPUT, path={**await self._path(), "node_id": node_id})).output

    def events(self, *, after_seq: int = 0) -> Listing[RunEvent]:
        """What has happened so far, in order."""
        return listing(
            self._api, LIST_EVENTS, lambda page: page.events, query={"afterSeq": after_seq or None}, path=self._path
        )

    def attempts(self, *, unfinished: bool = False) -> Listing[Attempt]:
        """What it has sent where, and what became of it; `unfinished`: only what is not over."""
        query = {"unfinished": "true" if unfinished else None}
        return listing(self._api, LIST_ATTEMPTS, lambda page: page.attempts, query=query, path=self._path)

    async def _path(self) -> dict[str, str]:
        if self._workflow_id is None:
            await self.get()
        return {"workflow_id": self._workflow_id or "", "run_id": self.id}

    async def _has_more(self, seq: int) -> bool:
        return bool((await self.events(after_seq=seq).page(limit=1)).items)

    async def _connected(self, seq: int, comeback: Comeback) -> AsyncGenerator[RunEvent, None]:
        """The events of one connection."""
        headers = {"Last-Event-ID": str(seq)} if seq else {}
        parser = EventParser()
        async with self._api.stream(FOLLOW_RUN, headers=headers, path=await self._path()) as answer:
            comeback.heard()
            async for piece in answer.content.iter_any():
                comeback.heard()
                for event in parser.feed(piece):
                    yield decoded(event, RunEvent)
