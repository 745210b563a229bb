"""The runs of the whole organization: the newest first, filtered, page by page, and found by their ids."""

from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.support.control import Caller, Control
from tests.support.run_steps import Stepping, published, start

from vespid.store.runs import QUERIES
from vespid_protocol.ids import OrgId

RUNS = "/v1/orgs/{org}/runs"


@pytest.fixture
def stepping(superuser: "asyncpg.Connection") -> Stepping:
    return Stepping(superuser)


async def ids_of(caller: Caller, query: str) -> list[str]:
    answer = await caller.get(f"{RUNS}{query}")
    assert answer.status == 200, answer.body
    return [run["id"] for run in answer.body["runs"]]


async def test_runs_of_every_workflow_come_newest_first_with_the_names_of_their_workflows(owner: Caller) -> None:
    runs = [await start(owner, await published(owner)) for _ in range(3)]
    answer = (await owner.get(RUNS)).body
    assert answer == {"runs": [run | {"workflowName": "w"} for run in reversed(runs)], "nextCursor": None}


async def test_pages_neither_repeat_nor_hide_while_runs_are_added(owner: Caller) -> None:
    path = await published(owner)
    runs = [(await start(owner, path))["id"] for _ in range(5)]
    seen: list[str] = []
    query = "?limit=2"
    while True:
        answer = (await owner.get(f"{RUNS}{query}")).body
        seen += [run["id"] for run in answer["runs"]]
        if answer["nextCursor"] is None:
            break
        query = f"?limit=2&cursor={answer['nextCursor']}"
        await start(owner, path)
    assert seen == list(reversed(runs))
    assert (await owner.get(f"{RUNS}?cursor=zz")).status == 400


async def test_only_runs_of_one_status_are_shown(owner: Caller, stepping: Stepping) -> None:
    path, other = await published(owner), await published(owner)
    at: dict[str, list[str]] = {}
    for status in ("queued", "running", "succeeded", "failed", "cancelled"):
        for where in (path, other):
            run = await start(owner, where)
            if status != "queued":
                await stepping.be_at(run["id"], status, f'{{"s": "{status}", "a": 1}}')
            at.setdefault(status, []).insert(0, run["id"])
    for status, expected in at.items():
        assert await ids_of(owner, f"?status={status}") == expected
        in_one = f"?status={status}&workflowId={path.rpartition('/')[2]}"
        assert await ids_of(owner, in_one) == expected[1:]
    assert (await owner.get(f"{RUNS}?status=odd")).status == 400


async def test_only_runs_of_one_workflow_or_trigger_are_shown(control: Control, owner: Caller) -> None:
    path, other = await published(owner), await published(owner)
    key = await owner.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": "member"})
    machine = control.with_token(key.body["value"], owner.org_id)
    by_hand, by_machine, elsewhere = [
        (await start(caller, where))["id"] for caller, where in ((owner, path), (machine, path), (owner, other))
    ]
    workflow_id = path.rpartition("/")[2]
    assert await ids_of(owner, f"?workflowId={workflow_id}") == [by_machine, by_hand]
    assert await ids_of(owner, "?triggerType=api") == [by_machine]
    assert await ids_of(owner, "?triggerType=manual") == [elsewhere, by_hand]
    assert await ids_of(owner, f"?workflowId={uuid4()}") == []
    assert (await owner.get(f"{RUNS}?workflowId=x")).status == 400


async def test_a_run_is_found_by_its_id_alone(owner: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.block(run, "n1", ended_with='{"exitCode": 0}')
    await stepping.be_at(run["id"], "running", '{"s": "running", "a": 1, "n": {"n1": {"s": "succeeded", "a": 1}}}')
    in_workflow = (await owner.get(f"{path}/runs/{run['id']}")).body["run"]
    assert (await owner.get(f"{RUNS}/{run['id']}")).body == {"run": in_workflow | {"workflowName": "w"}}
    assert in_workflow["output"]["steps"][0]["output"] == {"exitCode": 0}


@pytest.mark.promise("P5")
async def test_runs_of_another_organization_are_not_there(owner: Caller, stranger: Caller) -> None:
    run = await start(owner, await published(owner))
    assert await ids_of(stranger, "") == []
    assert await ids_of(stranger, f"?workflowId={run['workflowId']}") == []
    for missing in (run["id"], str(uuid4()), "x"):
        assert (await stranger.get(f"{RUNS}/{missing}")).status == 404


async def test_the_runs_that_people_look_for_are_found_without_reading_the_others(
    control: Control, owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    run = await start(owner, await published(owner))
    await stepping.be_at(run["id"], "failed", '{"s": "failed", "a": 1}')
    await superuser.execute(
        """insert into workflow_runs (id, organization_id, workflow_id, trigger_type, status, max_attempts, finished_at)
           select gen_random_uuid(), $1, $2, 'manual', 'succeeded', 3, now() from generate_series(1, 3000)""",
        UUID(run["organizationId"]),
        UUID(run["workflowId"]),
    )
    await superuser.execute("analyze workflow_runs")
    org = UUID(run["organizationId"])
    for query, status, index in (
        (QUERIES.list_unhappy_runs, "failed", "workflow_runs_unhappy"),
        (QUERIES.list_unfinished_runs, "running", "workflow_runs_unfinished"),
    ):
        async with control.plane.deps.database.tenant(OrgId(str(org))) as connection:
            plan = await connection.fetch(f"explain {query}", org, None, None, None, 51, status)
        assert index in str(plan)
