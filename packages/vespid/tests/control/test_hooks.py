"""Webhooks: a token starts a workflow, a delivery that names itself starts it once."""

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.support.control import Answer, Caller, Control
from tests.support.run_steps import DSL, W

HOOKED = DSL | {"trigger": {"type": "trigger.webhook"}}


async def hooked(owner: Caller) -> tuple[str, dict[str, str]]:
    """The path of a published webhook-triggered workflow, and its webhook."""
    made = await owner.post(W, {"name": "w", "dsl": HOOKED})
    path = f"{W}/{made.body['workflow']['id']}"
    answer = await owner.post(f"{path}/publish")
    assert answer.status == 200, answer.body
    webhook: dict[str, str] = answer.body["webhook"]
    return path, webhook


async def deliver(control: Control, token: str, body: object = None, query: str = "", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await control.anonymous().post(f"/v1/hooks/{token}{query}", body, headers=named)


async def test_a_delivery_starts_a_run_with_what_it_brought(control: Control, owner: Caller) -> None:
    path, webhook = await hooked(owner)
    assert webhook["url"].endswith(f"/v1/hooks/{webhook['token']}")
    answer = await deliver(control, webhook["token"], {"a": 1}, "?x=1&y=2&y=3", X_GitHub_Event="push")
    assert answer.status == 202, answer.body
    run = answer.body["run"]
    assert (run["triggerType"], run["requestedByUserId"]) == ("webhook", owner.user_id)
    assert set(run["input"]) == {"headers", "query", "body"}
    assert (run["input"]["body"], run["input"]["query"]) == ({"a": 1}, {"x": "1", "y": ["2", "3"]})
    assert run["input"]["headers"]["x-github-event"] == "push"
    assert (await owner.get(f"{path}/runs/{run['id']}")).body["run"] == run


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"", None),
        (b"plain text", "plain text"),
        (b"[1,2]", [1, 2]),
        (b"\xff\x00x", "\ufffd\ufffdx"),
        (b'"\\u0000"', "\ufffd"),
    ],
)
async def test_a_body_may_be_anything(control: Control, owner: Caller, sent: bytes, kept: object) -> None:
    _, webhook = await hooked(owner)
    answer = await control.anonymous().post(f"/v1/hooks/{webhook['token']}", data=sent)
    assert answer.status == 202, answer.body
    assert answer.body["run"]["input"]["body"] == kept


@pytest.mark.promise("P7")
async def test_who_the_sender_is_towards_us_is_not_kept(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    _, webhook = await hooked(owner)
    await deliver(control, webhook["token"], {}, Authorization="Bearer canary-77", Cookie="vespid_session=canary-77")
    assert "canary-77" not in await superuser.fetchval("select input::text from workflow_runs")


async def test_an_unknown_token_is_not_found(control: Control, owner: Caller) -> None:
    await hooked(owner)
    answer = await deliver(control, "no-such-token")
    assert (answer.status, answer.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize("header", ["Idempotency_Key", "webhook_id", "X_GitHub_Delivery"])
async def test_a_repeated_delivery_is_one_run(
    control: Control, owner: Caller, superuser: "asyncpg.Connection", header: str
) -> None:
    _, webhook = await hooked(owner)
    named = {header: "d-1"}
    answers = await asyncio.gather(*(deliver(control, webhook["token"], {"n": n}, **named) for n in range(5)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body["run"]["id"] for answer in answers}) == 1
    assert await superuser.fetchval("select count(*) from workflow_runs") == 1
    other = await deliver(control, webhook["token"], **{header: "d-2"})
    assert other.body["run"]["id"] != answers[0].body["run"]["id"]


async def test_deliveries_of_two_workflows_do_not_meet(control: Control, owner: Caller, stranger: Caller) -> None:
    webhooks = [(await hooked(person))[1] for person in (owner, owner, stranger)]
    answers = [await deliver(control, webhook["token"], Idempotency_Key="same") for webhook in webhooks]
    assert len({answer.body["run"]["id"] for answer in answers}) == 3
    assert [answer.body["run"]["organizationId"] for answer in answers] == [
        owner.org_id,
        owner.org_id,
        stranger.org_id,
    ]


async def test_the_token_is_shown_once_and_goes_on_to_the_newest_revision(control: Control, owner: Caller) -> None:
    path, webhook = await hooked(owner)
    draft = (await owner.post(f"{path}/drafts")).body["workflow"]
    # Not published yet: the first revision still answers.
    first = await deliver(control, webhook["token"])
    assert first.body["run"]["workflowId"] == path.rsplit("/", 1)[1]
    published = await owner.post(f"{W}/{draft['id']}/publish")
    assert "webhook" not in published.body
    second = await deliver(control, webhook["token"])
    assert second.body["run"]["workflowId"] == draft["id"]


async def test_a_revision_without_the_trigger_ends_the_webhook(control: Control, owner: Caller) -> None:
    path, webhook = await hooked(owner)
    draft = (await owner.post(f"{path}/drafts")).body["workflow"]
    await owner.put(f"{W}/{draft['id']}", {"dsl": DSL})
    await owner.post(f"{W}/{draft['id']}/publish")
    assert (await deliver(control, webhook["token"])).status == 404


async def test_a_rotated_token_replaces_the_old_one_at_once(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    path, webhook = await hooked(owner)
    answer = await owner.post(f"{path}/rotate-webhook")
    assert answer.status == 200
    rotated = answer.body["webhook"]
    assert rotated["token"] != webhook["token"]
    assert (await deliver(control, webhook["token"])).status == 404
    assert (await deliver(control, rotated["token"])).status == 202
    stored = str(await superuser.fetch("select * from webhook_tokens"))
    assert rotated["token"] not in stored


async def test_only_a_webhook_workflow_has_a_token_to_rotate(owner: Caller) -> None:
    made = await owner.post(W, {"name": "w", "dsl": DSL})
    path = f"{W}/{made.body['workflow']['id']}"
    assert "webhook" not in (await owner.post(f"{path}/publish")).body
    answer = await owner.post(f"{path}/rotate-webhook")
    assert (answer.status, answer.code) == (409, "CONFLICT")


async def test_a_refused_run_leaves_no_delivery_behind(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    _, webhook = await hooked(owner)
    await superuser.execute("alter table workflow_runs add constraint refuse check (trigger_type <> 'webhook')")
    assert (await deliver(control, webhook["token"], Idempotency_Key="k")).status == 500
    assert await superuser.fetchval("select count(*) from webhook_deliveries") == 0
    await superuser.execute("alter table workflow_runs drop constraint refuse")
    again: Any = await deliver(control, webhook["token"], Idempotency_Key="k")
    assert again.status == 202
