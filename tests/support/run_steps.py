"""Runs for tests: started over HTTP, and moved on as the worker would move them."""

from typing import Any
from uuid import UUID

import asyncpg
from tests.support.control import Caller

W = "/v1/orgs/{org}/workflows"
DSL = {
    "version": "v2",
    "trigger": {"type": "trigger.manual"},
    "nodes": [
        {"id": "n1", "type": "agent.execute", "config": {"task": {"type": "shell", "script": "echo hi"}}},
        {"id": "c1", "type": "condition", "config": {"path": "$.input.go", "op": "eq", "value": True}},
    ],
}
PAYLOAD = '{"k": "v"}'


async def published(owner: Caller, dsl: dict[str, Any] = DSL) -> str:
    """The path of a workflow that runs."""
    made = await owner.post(W, {"name": "w", "dsl": dsl})
    assert made.status == 201, made.body
    path = f"{W}/{made.body['workflow']['id']}"
    assert (await owner.post(f"{path}/publish")).status == 200
    return path


async def start(caller: Caller, path: str, **body: Any) -> dict[str, Any]:
    answer = await caller.post(f"{path}/runs", body or None)
    assert answer.status == 201, answer.body
    run: dict[str, Any] = answer.body["run"]
    return run


class Stepping:
    """Puts a run where the worker would have brought it, row by row."""

    def __init__(self, superuser: "asyncpg.Connection") -> None:
        self._superuser = superuser

    async def append(self, run_id: str, *types: str) -> None:
        """Events at the end of the run's."""
        for event_type in types:
            await self._superuser.execute(
                """with moved as (update workflow_runs set event_seq = event_seq + 1, version = version + 1
                                  where id = $1 returning *)
                   insert into workflow_run_events
                       (run_id, seq, organization_id, workflow_id, attempt_count, event_type, level, payload)
                   select id, event_seq, organization_id, workflow_id, 1, $2, 'info', $3::text::jsonb from moved""",
                UUID(run_id),
                event_type,
                PAYLOAD,
            )

    async def block(self, run: dict[str, Any], node_id: str, *, ended_with: str | None = None) -> str:
        """An execution of a node, waiting or ended."""
        request_id = f"{run['id']}:{node_id}:1"
        state = "pending" if ended_with is None else "succeeded"
        await self._superuser.execute(
            """insert into executions (request_id, organization_id, run_id, workflow_id, node_id, node_type, attempt,
                   kind, placement, state, payload, payload_sha256, timeout_ms, act_by, output, finished_at)
               values ($1, $2, $3, $4, $5, 'agent.execute', 1, 'agent.execute', 'executor', $6::text, '{}', '\\x00',
                   60000, now() + interval '10 minutes', $7::text::jsonb, case when $6 = 'succeeded' then now() end)""",
            request_id,
            UUID(run["organizationId"]),
            UUID(run["id"]),
            UUID(run["workflowId"]),
            node_id,
            state,
            ended_with,
        )
        return request_id

    async def be_at(self, run_id: str, status: str, cursor: str) -> None:
        """The run's status and cursor."""
        await self._superuser.execute(
            """update workflow_runs
               set status = $2::text, cursor = $3::text::jsonb, attempt_count = 1, started_at = now(),
                   finished_at = case when $2 in ('succeeded', 'failed', 'cancelled') then now() end,
                   version = version + 1
               where id = $1""",
            UUID(run_id),
            status,
            cursor,
        )
