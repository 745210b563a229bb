"""How an organization is doing: the truth, bounded, and counted once for everybody who looks."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.support.control import Caller, Control
from tests.support.run_steps import Stepping, published, start

from vespid.control import overviews
from vespid.store.overview import QUERIES
from vespid_protocol.ids import OrgId

OVERVIEW = "/v1/orgs/{org}/overview"


@pytest.fixture
def stepping(superuser: "asyncpg.Connection") -> Stepping:
    return Stepping(superuser)


@pytest.fixture
def counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is counted when it is asked for."""
    monkeypatch.setattr(overviews, "GOOD_FOR_S", 0.0)
    monkeypatch.setattr(overviews, "SHARE", 1e9)


async def overview(caller: Caller, window: str = "1h") -> dict[str, Any]:
    answer = await caller.get(f"{OVERVIEW}?window={window}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


async def test_an_organization_in_which_nothing_happened_is_all_zero(control: Control, owner: Caller) -> None:
    member = await control.join(owner)
    for window, count in (("1h", 60), ("24h", 48), ("7d", 56)):
        body = await overview(member, window)
        assert body["agents"] == dict.fromkeys(("online", "offline", "cordoned", "revoked", "capacity", "inFlight"), 0)
        assert body["queue"] == {
            "runsQueued": 0,
            "runsRunning": 0,
            "requestsPending": 0,
            "requestsLeased": 0,
            "oldestPendingSeconds": None,
            "waitingApprovals": 0,
        }
        assert len(body["buckets"]) == count
        starts = [bucket["at"] for bucket in body["buckets"]]
        assert starts == sorted(set(starts))
        assert {bucket["runsStarted"] for bucket in body["buckets"]} == {0}
        assert {bucket["runP95Ms"] for bucket in body["buckets"]} == {None}
    assert (await member.get(f"{OVERVIEW}?window=2h")).status == 400


@pytest.mark.usefixtures("counted_anew")
async def test_agents_are_counted_as_they_are_listed(owner: Caller, superuser: "asyncpg.Connection") -> None:
    ids = []
    for number in range(6):
        token = (await owner.post("/v1/orgs/{org}/agents/pairing-tokens")).body["token"]
        paired = await owner.post("/v1/agents/pair", {"pairingToken": token, "name": f"a{number}"})
        ids.append(UUID(paired.body["agentId"]))
    never, away, silent, online, cordoned, revoked = ids
    connected = (
        "update executors set connected_at = now(), last_seen_at = now() - $2::interval, lost_at = $3 where id = $1"
    )
    hour, none = timedelta(hours=1), timedelta(0)
    for agent, since, lost_at in (
        (away, none, datetime.now(UTC)),
        (silent, hour, None),
        (online, none, None),
        (cordoned, none, None),
        (revoked, none, None),
    ):
        await superuser.execute(connected, agent, since, lost_at)
    await superuser.execute("update executors set max_in_flight = 7")
    await owner.post(f"/v1/orgs/{{org}}/agents/{cordoned}/cordon")
    await owner.post(f"/v1/orgs/{{org}}/agents/{revoked}/revoke")
    listed = [agent["status"] for agent in (await owner.get("/v1/orgs/{org}/agents")).body["agents"]]
    agents = (await overview(owner))["agents"]
    assert {status: agents[status] for status in ("online", "offline", "revoked")} == {
        status: listed.count(status) for status in ("online", "offline", "revoked")
    }
    assert (agents["online"], agents["offline"], agents["revoked"], agents["cordoned"]) == (2, 3, 1, 1)
    assert agents["capacity"] == 7
    assert never in ids


@pytest.mark.usefixtures("counted_anew")
async def test_the_queue_is_what_is_not_over(owner: Caller, stranger: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    queued, running, over = [await start(owner, path) for _ in range(3)]
    theirs = await start(stranger, await published(stranger))
    await stepping.block(theirs, "n1")
    await stepping.be_at(running["id"], "running", '{"s": "running", "a": 1}')
    await stepping.block(running, "n1")
    await stepping.block(running, "n2", ended_with="1")
    await stepping.be_at(over["id"], "succeeded", '{"s": "succeeded", "a": 1}')
    queue = (await overview(owner))["queue"]
    assert (queue["runsQueued"], queue["runsRunning"]) == (1, 1)
    assert (queue["requestsPending"], queue["requestsLeased"]) == (1, 0)
    assert queue["oldestPendingSeconds"] >= 0
    assert queued["status"] == "queued"


@pytest.mark.usefixtures("counted_anew")
async def test_ends_are_counted_when_they_happened_with_how_long_it_took(
    owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    path = await published(owner)
    for seconds, status in ((1, "succeeded"), (2, "succeeded"), (3, "failed"), (90, "cancelled")):
        run = await start(owner, path)
        await stepping.be_at(run["id"], status, f'{{"s": "{status}", "a": 1}}')
        await superuser.execute(
            """update workflow_runs set created_at = t.at - interval '60 s', started_at = t.at - interval '50 s',
                   finished_at = t.at - interval '50 s' + $2 * interval '1 s'
               from (select date_trunc('hour', now() - interval '2 hours') + interval '1 min') t(at) where id = $1""",
            UUID(run["id"]),
            seconds,
        )
    busy = [bucket for bucket in (await overview(owner, "24h"))["buckets"] if bucket["runsSucceeded"]]
    assert len(busy) == 1
    assert datetime.fromisoformat(busy[0].pop("at")).minute == 0
    assert busy[0] == {
        "runsStarted": 0,
        "runsSucceeded": 2,
        "runsFailed": 1,
        "runsCancelled": 1,
        "runP50Ms": 2000,
        "runP95Ms": 2900,
        "queueP50Ms": 10_000,
        "queueP95Ms": 10_000,
    }
    # They were accepted now, by their ids.
    assert sum(bucket["runsStarted"] for bucket in (await overview(owner))["buckets"][-2:]) == 4


async def test_many_who_look_at_once_are_counted_for_once(owner: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = 0
    count = overviews.count_queue

    async def counting(*given: Any) -> Any:
        nonlocal counts
        counts += 1
        return await count(*given)

    monkeypatch.setattr(overviews, "count_queue", counting)
    monkeypatch.setattr(overviews, "GOOD_FOR_S", 3600.0)
    first, *others = await asyncio.gather(*(overview(owner) for _ in range(20)))
    assert all(other == first for other in others)
    assert counts == 1


@pytest.mark.usefixtures("counted_anew")
async def test_what_is_long_past_is_not_counted_again(
    owner: Caller, stepping: Stepping, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    count = overviews.count_spans

    async def counting(connection: Any, org: UUID, starts: list[int], length_ms: int) -> Any:
        asked.append(len(starts))
        return await count(connection, org, starts, length_ms)

    monkeypatch.setattr(overviews, "count_spans", counting)
    path = await published(owner)
    before = await overview(owner, "7d")
    run = await start(owner, path)
    await stepping.be_at(run["id"], "succeeded", '{"s": "succeeded", "a": 1}')
    after = await overview(owner, "7d")
    assert asked[0] == 56
    assert asked[1] <= 2
    # What is new is seen all the same, in one of the last two.
    new = [sum(bucket["runsSucceeded"] for bucket in body["buckets"][-2:]) for body in (before, after)]
    assert new == [0, 1]


async def test_what_is_counted_over_time_is_read_from_an_index_alone(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    run = await start(owner, await published(owner))
    org = UUID(run["organizationId"])
    await superuser.execute(
        """insert into workflow_runs
               (id, organization_id, workflow_id, trigger_type, status, max_attempts, started_at, finished_at)
           select gen_random_uuid(), $1, $2, 'manual', 'succeeded', 3, now(), now() - n * interval '1 s'
           from generate_series(1, 5000) n""",
        org,
        UUID(run["workflowId"]),
    )
    await superuser.execute("vacuum analyze workflow_runs")
    end = datetime.now(UTC)
    async with control.plane.deps.database.tenant(OrgId(str(org))) as connection:

        async def plan(query: str, *given: object) -> str:
            return "\n".join(row[0] for row in await connection.fetch(f"explain {query}", *given))

        # How much of the index has to be checked against the table is for vacuum to say; that it need not be, for us.
        await connection.execute("set local enable_bitmapscan = off; set local enable_seqscan = off")
        ended = await plan(QUERIES.count_ended, org, end - timedelta(minutes=5), end, 60_000)
        assert "Index Only Scan using workflow_runs_ended" in ended
        assert "workflow_runs_unfinished" in await plan(QUERIES.count_unfinished_runs, org)
