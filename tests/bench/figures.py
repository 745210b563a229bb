"""The figures: each a function that measures, and its floor from the same run."""

import asyncio
import itertools
import os
import statistics
import time
from typing import Any

import aiohttp
import msgspec
from tests.bench.floors import Floors
from tests.bench.installation import Installation
from tests.bench.loop import loop
from tests.bench.pages import pages
from tests.bench.report import Figure, figure
from tests.bench.sandbox import sandbox
from tests.bench.sessions import sessions
from tests.bench.timing import Timing, timed

from vespid.bus.capacity import RedisCapacity
from vespid.bus.choice import Ask, ExecutorPresence, Reserved
from vespid.bus.connection import Connection
from vespid.domain.selector import Capabilities, Requirement
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, new_id

IDLE_AGENTS = 1_000
FLEETS = (10, 1_000, 10_000)
ROUNDS = 3
LOOK_S = 0.005

_numbers = itertools.count(1)


async def dispatch(at: Installation, floors: Floors) -> dict[str, Figure]:
    """The synchronous dispatch, from the POST to its answer, with an executor that answers at once."""
    (executor,) = await at.executor()
    await executor.connect(at.http)
    body = {
        "organizationId": at.org_id,
        "workflowId": None,
        "nodeId": "n",
        "nodeType": "agent.execute",
        "attemptCount": 1,
        "kind": "agent.execute",
        "payload": {"nodeId": "n", "node": {"id": "n", "type": "agent.execute", "config": {}}},
    }
    headers = {"X-Gateway-Token": at.service_token, "content-type": "application/json"}
    url = f"{at.gateway}/internal/v1/dispatch"

    async def once() -> None:
        data = msgspec.json.encode({**body, "runId": new_id()})
        async with at.http.post(url, data=data, headers=headers) as answer:
            text = await answer.read()
            if answer.status != 200 or b"succeeded" not in text:
                raise RuntimeError(f"dispatch: {answer.status} {text[:300]!r}")

    alone, floor_alone, busy, many, floor_many = [], [], [], [], []
    for _ in range(ROUNDS):
        parts = (
            await floors.http(at_once=1, count=300),
            await floors.echo(count=300),
            await floors.commits(connections=1, count=300),
        )
        floor_alone.append(sum(part.p50_ms for part in parts))
        alone.append(await timed(once, at_once=1, count=300))
        busy.append(await timed(once, at_once=32, count=1_500))
        floor_many.append((await floors.combined(at_once=64, count=3_000)).per_s)
        many.append((await timed(once, at_once=64, count=3_000)).per_s)
    await executor.close()
    floor = statistics.median(floor_alone)
    return {
        "dispatch_p50_ms": figure(_median(alone, "p50_ms"), "ms", floor),
        "dispatch_p99_ms": figure(_median(alone, "p99_ms"), "ms", floor),
        "dispatch_32_p50_ms": figure(_median(busy, "p50_ms"), "ms"),
        "dispatch_32_p99_ms": figure(_median(busy, "p99_ms"), "ms"),
        "dispatch_per_s": figure(statistics.median(many), "1/s at 64", statistics.median(floor_many)),
    }


async def workflow(at: Installation, floors: Floors) -> dict[str, Figure]:
    """A run with one remote node, from the POST to its terminal event on the stream; and how many a second."""
    (executor,) = await at.executor()
    await executor.connect(at.http)
    node = {"id": "n", "type": "agent.execute", "config": {"execution": {"mode": "executor"}}}
    dsl = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [node]}
    base = f"/v1/orgs/{at.org_id}/workflows"
    workflow_id = (await at.call("POST", base, {"name": "bench", "dsl": dsl}))["workflow"]["id"]
    await at.call("POST", f"{base}/{workflow_id}/publish")

    async def once() -> None:
        run = (await at.call("POST", f"{base}/{workflow_id}/runs", {"input": {"x": 1}}))["run"]
        async with at.http.get(f"{at.api}{base}/{workflow_id}/runs/{run['id']}/stream", headers=at.headers) as stream:
            said = await stream.read()
        if b"run_succeeded" not in said:
            raise RuntimeError(f"run {run['id']}: {said[-500:]!r}")

    alone, per_s, commits = [], [], []
    for _ in range(ROUNDS):
        alone.append(await timed(once, at_once=1, count=150))
        commits.append((await floors.commits(connections=20, count=4_000)).per_s)
        per_s.append(await _runs_per_s(at, f"{base}/{workflow_id}", at_once=20, count=1_000))
    await executor.close()
    return {
        "workflow_p50_ms": figure(_median(alone, "p50_ms"), "ms"),
        "workflow_p99_ms": figure(_median(alone, "p99_ms"), "ms"),
        "runs_per_s": figure(statistics.median(per_s), "1/s at 20", statistics.median(commits) / 4),
    }


async def _runs_per_s(at: Installation, path: str, *, at_once: int, count: int) -> float:
    """Runs from their POST to their terminal row, `at_once` of them in flight; who waits learns it from Postgres."""
    import asyncpg

    watching = await asyncpg.connect(at.database_url)
    first = new_id()
    begun = time.perf_counter()
    started = finished = 0
    while finished < count:
        room = min(at_once - (started - finished), count - started)
        if room > 0:
            await asyncio.gather(*(at.call("POST", f"{path}/runs", {"input": {"x": 1}}) for _ in range(room)))
            started += room
        # Seldom, and over this round's rows only: looking must not be what is measured.
        await asyncio.sleep(LOOK_S)
        finished = await watching.fetchval(
            "select count(*) from workflow_runs where id > $1::text::uuid and finished_at is not null", first
        )
    took = time.perf_counter() - begun
    await watching.close()
    return count / took


async def selection(at: Installation, _floors: Floors) -> dict[str, Figure]:
    """Choosing an executor among more and more: how a choice's time grows from the smallest to the largest fleet."""
    connection = Connection(at.redis_url, name="bench")
    await connection.start()
    capacity = RedisCapacity(connection)
    took: dict[int, float] = {}
    for fleet in FLEETS:
        org_id = OrgId(new_id())
        requirement = Requirement("agent.execute")
        for _ in range(fleet):
            await capacity.upsert(
                ExecutorPresence(
                    executor_id=ExecutorId(new_id()),
                    org_id=org_id,
                    connection_epoch=1,
                    edge_id=ProcessId(new_id()),
                    capacity=200,
                    routable=True,
                    capabilities=Capabilities(),
                )
            )
        await capacity.rebuild(org_id, [], 0, life=await capacity.prepare(org_id))

        async def choose(org_id: OrgId = org_id, requirement: Requirement = requirement) -> None:
            request_id = RequestId(f"{next(_numbers)}:n:1")
            choice = await capacity.choose(
                Ask(request_id=request_id, org_id=org_id, pool="byon", requirement=requirement, org_quota=10**6)
            )
            if not isinstance(choice, Reserved):
                raise RuntimeError(f"no executor was chosen: {choice}")
            await capacity.release(request_id, org_id)

        took[fleet] = statistics.median([(await timed(choose, at_once=1, count=500)).p50_ms for _ in range(ROUNDS)])
    await connection.stop()
    smallest, largest = took[FLEETS[0]], took[FLEETS[-1]]
    return {"select_growth": figure(largest / smallest, f"× from {FLEETS[0]} to {FLEETS[-1]}", 1.0)} | {
        f"select_{fleet}_ms": figure(value, "ms, choose and release") for fleet, value in took.items()
    }


async def idle(at: Installation, _floors: Floors) -> dict[str, Figure]:
    """Memory of the server process per idle agent socket."""
    executors = await at.executor(IDLE_AGENTS)
    before = _resident_kb(at.server_pid)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        for start in range(0, len(executors), 50):
            await asyncio.gather(*(executor.connect(http) for executor in executors[start : start + 50]))
        after = _resident_kb(at.server_pid)
        await asyncio.gather(*(executor.close() for executor in executors))
    return {"idle_agent_kb": figure((after - before) / IDLE_AGENTS, f"KB of {IDLE_AGENTS} idle agents", 20.0)}


def _resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def _median(timings: list[Timing], field: str) -> float:
    return statistics.median(getattr(timing, field) for timing in timings)


FIGURES: dict[str, Any] = {
    "dispatch": dispatch,
    "workflow": workflow,
    "selection": selection,
    "idle": idle,
    "pages": pages,
    "sessions": sessions,
    "sandbox": sandbox,
    "loop": loop,
}


def foreign_load() -> float:
    """Load average over the last minute before the run: what else the machine was doing."""
    return os.getloadavg()[0]
