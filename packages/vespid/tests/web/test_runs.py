"""Runs by the pages: listed, looked at, cancelled."""

from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.support.control import Caller
from tests.support.pages import Pages
from tests.support.run_steps import Stepping, published, start

HOSTILE = "<b onclick=x>"
DONE = '{"s": "%s", "a": 1, "n": {"n1": {"s": "%s", "a": 1%s}}}'


@pytest.fixture
def stepping(superuser: "asyncpg.Connection") -> Stepping:
    return Stepping(superuser)


async def test_the_empty_list_says_what_to_do(control: Pages, owner: Caller) -> None:
    page = await control.visit(owner).get("/runs")
    assert "No run yet" in page.text
    assert 'data-live="runs"' in page.html


async def test_the_list_filters_by_status_workflow_and_trigger(
    control: Pages, owner: Caller, stepping: Stepping
) -> None:
    first, second = await published(owner), await published(owner)
    failed, queued = await start(owner, first), await start(owner, second)
    await stepping.be_at(failed["id"], "failed", DONE % ("failed", "failed", ', "e": "X"'))
    visit = control.visit(await control.join(owner), vespid_org=str(owner.org_id))

    async def shown(query: str) -> list[bool]:
        page = await visit.get(f"/runs?{query}", hx_target="runs")
        assert "<h1>" not in page.html
        return [f"/runs/{run['id']}" in page.html for run in (failed, queued)]

    assert await shown("") == [True, True]
    assert await shown("status=failed") == [True, False]
    assert await shown(f"workflowId={queued['workflowId']}") == [False, True]
    assert await shown("triggerType=cron") == [False, False]


async def test_a_list_that_is_not_the_first_page_stays_as_it_is(control: Pages, owner: Caller) -> None:
    path = await published(owner)
    for _ in range(51):
        await start(owner, path)
    first = await control.visit(owner).get("/runs")
    onward = first.html.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    page = await control.visit(owner).get(onward)
    assert 'data-live="runs"' not in page.html
    assert page.html.count('data-label="Run"') == 1


async def test_a_run_shows_its_nodes_what_it_waits_for_and_where_they_are(
    control: Pages, owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    path = await published(owner)
    run = await start(owner, path, input={"said": HOSTILE})
    request = await stepping.block(run, "n1")
    agent = uuid4()
    await superuser.execute(
        "insert into executors (id, organization_id, name, token_sha256) values ($1, $2, $3, '\\x00')",
        agent,
        UUID(run["organizationId"]),
        HOSTILE,
    )

    async def wait(state: str, reason: str | None, executor: UUID | None) -> str:
        await superuser.execute(
            "update executions set state = $2, waiting_reason = $3, executor_id = $4 where request_id = $1",
            request,
            state,
            reason,
            executor,
        )
        page = await control.visit(owner).get(f"/runs/{run['id']}")
        assert page.status == 200
        assert HOSTILE not in page.html
        return page.text

    assert "none that is connected matches" in await wait("pending", "NONE_MATCHES", None)
    assert "none is connected" in await wait("pending", "NONE_CONNECTED", None)
    assert "quota" in await wait("pending", "QUOTA", None)
    assert f"n1 runs on {HOSTILE}" in await wait("received", None, agent)


async def test_a_run_that_waits_for_people_leads_to_them(
    control: Pages, owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    run = await start(owner, await published(owner))
    request = await stepping.block(run, "n1")
    approval = uuid4()
    await superuser.execute(
        "update executions set kind = 'approval', placement = 'person' where request_id = $1", request
    )
    await superuser.execute(
        """insert into approvals (id, organization_id, run_id, workflow_id, request_id, node_id, node_type, kind,
               by_role, what, hash, expires_at)
           values ($1, $2, $3, $4, $5, 'n1', 'agent.execute', 'node', 'admin', '{}', $6, now() + interval '1 h')""",
        approval,
        UUID(run["organizationId"]),
        UUID(run["id"]),
        UUID(run["workflowId"]),
        request,
        "00" * 32,
    )
    assert f'href="/approvals/{approval}"' in (await control.visit(owner).get(f"/runs/{run['id']}")).html


async def test_a_failed_run_says_its_code_and_what_can_be_done(
    control: Pages, owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    run = await start(owner, await published(owner))
    await stepping.be_at(run["id"], "failed", DONE % ("failed", "failed", ', "e": "HOST_EXIT_CODE:3"'))
    await superuser.execute(
        "update workflow_runs set error = 'HOST_EXIT_CODE:3', error_message = $2 where id = $1",
        UUID(run["id"]),
        HOSTILE,
    )
    state = await control.visit(owner).get(f"/runs/{run['id']}", hx_target="run-state")
    assert "HOST_EXIT_CODE:3" in state.text
    assert "its output says why" in state.text
    assert HOSTILE not in state.html
    assert "timeline" not in state.html
    assert f'action="/runs/{run["id"]}/retry"' in state.html


async def test_a_run_is_cancelled(control: Pages, owner: Caller, superuser: "asyncpg.Connection") -> None:
    run = await start(owner, await published(owner))
    visit = control.visit(owner)
    answered = await visit.send(f"/runs/{run['id']}/cancel", hx_target="run-state")
    assert (answered.status, "being cancelled" in answered.headers["hx-trigger"]) == (200, True)
    asked = await superuser.fetchval("select cancel_requested from workflow_runs")
    assert asked is True


async def test_an_output_is_given_in_full_on_demand(control: Pages, owner: Caller, stepping: Stepping) -> None:
    run = await start(owner, await published(owner))
    visit = control.visit(owner)
    path = f"/runs/{run['id']}/nodes/n1/output"
    assert "no output, or not yet" in (await visit.get(path, hx_target="output")).text
    long = "x" * 30_000 + HOSTILE
    await stepping.block(run, "n1", ended_with=f'{{"stdout": "{long}"}}')
    page = await visit.get(path, hx_target="output")
    assert long in page.text
    assert HOSTILE not in page.html


async def test_another_organizations_run_is_not_there(control: Pages, owner: Caller, stranger: Caller) -> None:
    run = await start(owner, await published(owner))
    visit = control.visit(stranger)
    for path in (f"/runs/{run['id']}", f"/runs/{run['id']}/nodes/n1/output"):
        assert (await visit.get(path)).status == 404
    for action in ("cancel", "retry"):
        assert (await visit.send(f"/runs/{run['id']}/{action}")).status == 404


async def test_a_failed_run_is_tried_again_from_a_node_and_says_of_which_it_is(
    control: Pages, owner: Caller, stepping: Stepping
) -> None:
    run = await start(owner, await published(owner))
    visit = control.visit(await control.join(owner), vespid_org=str(owner.org_id))
    early = await visit.send(f"/runs/{run['id']}/retry")
    assert (early.status, "CONFLICT" in early.text) == (409, True)
    await stepping.block(run, "n1", ended_with='{"exitCode": 1}')
    await stepping.be_at(run["id"], "failed", DONE % ("failed", "failed", ', "e": "X"'))
    again = await visit.send(f"/runs/{run['id']}/retry", {"fromNodeId": "n1"})
    assert again.status == 303
    page = await visit.get(again.headers["location"])
    assert f'href="/runs/{run["id"]}"' in page.html
    assert "from n1" in page.text
