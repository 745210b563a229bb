"""Offers to a gateway that is gone: noticed as they are sent, and chosen again at once. Real processes, killed."""

import asyncio
import signal
import time

import pytest
from prometheus_client import REGISTRY
from tests.support.executor import ScriptedExecutor
from tests.support.gateways import Fleet, Gateway, dispatch_body, request_id
from tests.support.ground import Executor
from tests.support.processes import Processes, RunningProcess

from vespid_protocol.ids import OrgId

# Far below the 5 s after which a reservation or an offer that nobody took would be looked at.
AT_ONCE_S = 2.0


class Pair:
    """A gateway that is to be killed and one that lives, each with an executor of one organization."""

    def __init__(self, fleet: Fleet, victim: RunningProcess, survivor: Gateway, org: OrgId) -> None:
        self.fleet = fleet
        self.victim = victim
        self.survivor = survivor
        self.org = org

    async def join(self) -> None:
        self.lost: Executor = await self.fleet.ground.executor(self.org)
        self.left = ScriptedExecutor(self.fleet.http, self.victim.url, self.lost.token)
        await self.left.connect()
        await self.fleet.routed(self.lost)
        self.right = await self.fleet.join(self.survivor, await self.fleet.ground.executor(self.org))

    async def work(self, count: int, within_s: float = AT_ONCE_S) -> float:
        """Dispatch through the survivor, answer what comes to its executor; the longest wait of any."""
        longest = 0.0
        for _ in range(count):
            body = dispatch_body(self.org, schedule={"onUnavailable": "wait"})
            begun = time.monotonic()
            assert (await self.survivor.dispatch_async(body)).status < 300
            execute = await self.right.next("execute", within_s)
            longest = max(longest, time.monotonic() - begun)
            assert (execute["requestId"], execute["leaseEpoch"]) == (request_id(body), 1)
            await self.right.result(execute)
            assert (await self.survivor.finished(request_id(body)))["status"] == "succeeded"
        return longest


@pytest.fixture
async def pair(fleet: Fleet, processes: Processes, org: OrgId) -> Pair:
    await fleet.worker(continuation_poll_ms=2_000, agent_lease_ms=45_000)
    pair = Pair(fleet, await processes.start("gateway"), await fleet.gateway(), org)
    await pair.join()
    return pair


@pytest.mark.promise("P3")
async def test_work_goes_elsewhere_at_once_after_a_gateway_was_killed(pair: Pair) -> None:
    await pair.victim.kill()
    longest = await pair.work(6, 15.0)
    assert longest < AT_ONCE_S


async def test_a_caller_who_waits_is_answered_by_another_gateways_executor(pair: Pair) -> None:
    await pair.victim.kill()
    for _ in range(3):
        body = dispatch_body(pair.org)
        answering = asyncio.ensure_future(pair.survivor.dispatch(body))
        execute = await pair.right.next("execute", AT_ONCE_S)
        await pair.right.result(execute)
        answer = await answering
        assert (answer.status, answer.body["status"]) == (200, "succeeded")


async def test_waiters_find_the_room_of_the_living(pair: Pair) -> None:
    """All room is taken when the gateway dies; what its executor had not taken up waits on for the other's."""
    full = [dispatch_body(pair.org, schedule={"onUnavailable": "wait"}) for _ in range(20)]
    for body in full:
        await pair.survivor.dispatch_async(body)
    left = [await pair.left.next("execute") for _ in range(10)]
    right = [await pair.right.next("execute") for _ in range(10)]
    await pair.victim.kill()
    more = [dispatch_body(pair.org, schedule={"onUnavailable": "wait"}) for _ in range(5)]
    for body in more:
        await pair.survivor.dispatch_async(body)
    for execute in right[:5]:
        await pair.right.result(execute)
    later = [await pair.right.next("execute", AT_ONCE_S) for _ in range(5)]
    assert {execute["requestId"] for execute in later} == {request_id(body) for body in more}
    # What the lost executor holds is its own until its lease is over: it comes back and ends it.
    pair.left.url = pair.survivor.url
    await pair.left.connect(
        in_flight=[{"requestId": execute["requestId"], "leaseEpoch": execute["leaseEpoch"]} for execute in left]
    )
    for execute in left:
        await pair.left.result(execute)
        assert (await pair.survivor.finished(execute["requestId"]))["status"] == "succeeded"


@pytest.mark.promise("P3")
async def test_a_gateway_that_is_only_stopped_keeps_its_offers(pair: Pair) -> None:
    before = REGISTRY.get_sample_value("vespid_executors_withdrawn_total")
    pair.victim.signal(signal.SIGSTOP)
    body = dispatch_body(pair.org, executorSelector={"executorId": pair.lost.id}, schedule={"onUnavailable": "wait"})
    await pair.survivor.dispatch_async(body)
    pair.victim.signal(signal.SIGCONT)
    execute = await pair.left.next("execute")
    assert (execute["requestId"], execute["leaseEpoch"]) == (request_id(body), 1)
    await pair.left.result(execute)
    assert (await pair.survivor.finished(request_id(body)))["status"] == "succeeded"
    assert pair.left.unread("execute") == []
    assert REGISTRY.get_sample_value("vespid_executors_withdrawn_total") == before


@pytest.mark.promise("P3")
async def test_a_gateway_that_had_lost_its_line_to_redis_is_given_work_again(fleet: Fleet, org: OrgId) -> None:
    cut, other = await fleet.gateway(), await fleet.gateway()
    executor = await fleet.ground.executor(org)
    scripted = await fleet.join(cut, executor)
    house = cut.service.house
    await house.mail.stop()
    await house.fanout.stop()
    body = dispatch_body(org, schedule={"onUnavailable": "wait"})
    await other.dispatch_async(body)
    await fleet.routed(executor, is_routable=False)
    await house.mail.start()
    await house.fanout.start()
    # It reads the offer it was thought too dead for, and the news that its executor was taken out.
    execute = await scripted.next("execute")
    assert (execute["requestId"], execute["leaseEpoch"]) == (request_id(body), 1)
    await scripted.result(execute)
    assert (await other.finished(request_id(body)))["status"] == "succeeded"
    await fleet.routed(executor)
    again = dispatch_body(org, schedule={"onUnavailable": "wait"})
    await other.dispatch_async(again)
    await scripted.result(await scripted.next("execute"))
    assert (await other.finished(request_id(again)))["status"] == "succeeded"
    assert [frame["requestId"] for frame in scripted.heard if frame["type"] == "execute"] == [
        request_id(body),
        request_id(again),
    ]
