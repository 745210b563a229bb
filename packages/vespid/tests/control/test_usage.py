"""Use of models over HTTP: in a run, and of an organization by day, model, workflow or session."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.support.control import Caller, Control
from tests.support.run_steps import published, start

from vespid_protocol.ids import new_id

USAGE = "/v1/orgs/{org}/usage"
MAY = "from=2026-05-01T00:00:00Z&to=2026-06-01T00:00:00Z"


class Ledger:
    """Puts rows where the gateway's commits would."""

    def __init__(self, superuser: "asyncpg.Connection", org_id: str) -> None:
        self._superuser, self._org = superuser, org_id

    async def add(self, at: str = "2026-05-20T12:00:00Z", cost: int | None = 1_500, **others: Any) -> None:
        fields = {
            "request_id": new_id(),
            "requested_at": datetime.now(UTC),
            "organization_id": UUID(self._org),
            "recorded_at": datetime.fromisoformat(at),
            "provider": "openai",
            "model": "gpt-5",
            "input_tokens": 10,
            "output_tokens": 5,
            "total_tokens": 15,
            "cost_micros": cost,
        } | others
        names, places = ", ".join(fields), ", ".join(f"${n + 1}" for n in range(len(fields)))
        await self._superuser.execute(f"insert into model_usage ({names}) values ({places})", *fields.values())


@pytest.fixture
def ledger(superuser: "asyncpg.Connection", owner: Caller) -> Ledger:
    assert owner.org_id is not None
    return Ledger(superuser, owner.org_id)


def sums(tries: int, cost: float | None, unpriced: int = 0) -> dict[str, object]:
    return {
        "tries": tries,
        "inputTokens": 10 * tries,
        "outputTokens": 5 * tries,
        "totalTokens": 15 * tries,
        "costUsd": cost,
        "unpricedTokens": unpriced,
    }


async def test_a_run_tells_what_it_took_in_total_and_by_node(owner: Caller, ledger: Ledger) -> None:
    path = await published(owner)
    run = await start(owner, path)
    assert run["usage"] is None
    assert (await owner.get(f"{path}/runs/{run['id']}")).body["run"]["usage"] is None
    for node, cost in (("a", 1_500), ("a", 500), ("b", None)):
        await ledger.add(cost=cost, node_id=node, run_id=UUID(run["id"]))
    await ledger.add(node_id="a", run_id=UUID(new_id()))
    used = (await owner.get(f"{path}/runs/{run['id']}")).body["run"]["usage"]
    of_model = {"provider": "openai", "model": "gpt-5"}
    assert used == {
        "total": sums(3, 0.002, 15),
        "nodes": [
            {"nodeId": "a", **of_model, "used": sums(2, 0.002)},
            {"nodeId": "b", **of_model, "used": sums(1, None, 15)},
        ],
    }


async def test_an_organization_sees_its_days_page_by_page(owner: Caller, ledger: Ledger) -> None:
    for at in ("2026-04-30T23:59:59.999Z", "2026-05-01T00:00:00Z", "2026-05-02T01:00:00+02:00", "2026-05-03T10:00:00Z"):
        await ledger.add(at)
    await ledger.add("2026-06-01T00:00:00Z")
    first = (await owner.get(f"{USAGE}?{MAY}&limit=1")).body
    assert (first["from"], first["to"], first["groupBy"]) == (
        "2026-05-01T00:00:00.000Z",
        "2026-06-01T00:00:00.000Z",
        "day",
    )
    assert (first["total"], first["usage"]) == (sums(3, 0.0045), [{"used": sums(2, 0.003), "day": "2026-05-01"}])
    second = (await owner.get(f"{USAGE}?{MAY}&limit=1&cursor={first['nextCursor']}")).body
    assert (second["usage"], second["nextCursor"]) == ([{"used": sums(1, 0.0015), "day": "2026-05-03"}], None)


async def test_models_workflows_and_sessions_are_told_by_name(owner: Caller, ledger: Ledger) -> None:
    path = await published(owner)
    workflow = (await owner.get(path)).body["workflow"]
    session = (await owner.post("/v1/orgs/{org}/sessions", {"title": "Help"})).body["session"]
    await ledger.add(workflow_id=UUID(workflow["id"]), node_id="a")
    await ledger.add(session_id=UUID(session["id"]), model="o9", cost=None)

    async def by(what: str) -> Any:
        return (await owner.get(f"{USAGE}?{MAY}&groupBy={what}")).body["usage"]

    assert await by("workflow") == [
        {"used": sums(1, 0.0015), "familyId": workflow["familyId"], "workflowName": workflow["name"]}
    ]
    assert await by("session") == [{"used": sums(1, None, 15), "sessionId": session["id"], "title": "Help"}]
    assert sorted((group["provider"], group["model"]) for group in await by("model")) == [
        ("openai", "gpt-5"),
        ("openai", "o9"),
    ]


@pytest.mark.promise("P5")
async def test_members_may_read_it_and_strangers_see_nothing(
    control: Control, owner: Caller, stranger: Caller, ledger: Ledger
) -> None:
    await ledger.add()
    member = await control.join(owner, "member")
    assert (await member.get(f"{USAGE}?{MAY}")).body["total"]["tries"] == 1
    assert (await stranger.get(f"{USAGE}?{MAY}")).body["total"]["tries"] == 0
    refused = await stranger.get(f"/v1/orgs/{owner.org_id}/usage", headers={"X-Org-Id": str(owner.org_id)})
    assert (refused.status, refused.code) == (403, "ORG_ACCESS_DENIED")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-05-02T00:00:00Z&to=2026-05-01T00:00:00Z", "from"),
        ("from=2024-05-02T00:00:00Z&to=2026-05-01T00:00:00Z", "from"),
        ("from=yesterday", "from"),
        ("to=0001-01-01T00:00:00%2B23:59", "to"),
        ("groupBy=planet", "groupBy"),
        ("cursor=nonsense", "cursor"),
    ],
)
async def test_a_bad_question_names_its_parameter(owner: Caller, query: str, field: str) -> None:
    answer = await owner.get(f"{USAGE}?{query}")
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert list(answer.body["details"]["fieldErrors"]) == [field]


async def test_without_a_time_it_is_the_last_thirty_days(owner: Caller, ledger: Ledger) -> None:
    await ledger.add(datetime.now(UTC).isoformat())
    answer = (await owner.get(USAGE)).body
    assert answer["total"]["tries"] == 1
    span = datetime.fromisoformat(answer["to"]) - datetime.fromisoformat(answer["from"])
    assert span.days == 30
