"""The executor's socket: who is let in, what is said, and which frames end it."""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

import pytest
from tests.support.gateways import Fleet, Gateway, dispatch_body
from tests.support.ground import Executor
from tests.support.organization import until

from vespid.bus.channels import org_channel
from vespid.bus.choice import ExecutorPresence, Next
from vespid.bus.org_news import OrgNews, decode
from vespid.control.agents import AGENT_TOKEN_PREFIX
from vespid.store.agents import rotate_agent_token
from vespid_protocol.ids import OrgId, create_token, hash_token, new_id


async def refused(fleet: Fleet, gateway: Gateway, token: str | None, query: str = "") -> tuple[int, str, str | None]:
    """Status, code and Retry-After of a refused upgrade."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for path in ("/ws/executor", "/ws"):
        async with fleet.http.get(
            f"{gateway.url}{path}{query}",
            headers=headers
            | {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        ) as response:
            answer = (response.status, (await response.json())["code"], response.headers.get("Retry-After"))
    return answer


async def test_a_refusal_is_an_http_answer_before_the_upgrade(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    invalid = (401, "EXECUTOR_TOKEN_INVALID", None)
    other = new_id()
    for token in (None, "", "x", f"{org}.wrong", executor.token.replace(org, other), f"{org}.{'x' * 600}"):
        assert await refused(fleet, gateway, token) == invalid, token
    unsupported = await refused(fleet, gateway, executor.token, "?protocol=3")
    assert unsupported == (426, "PROTOCOL_UNSUPPORTED", None)
    await fleet.ground.revoke(executor)
    assert await refused(fleet, gateway, executor.token) == (403, "EXECUTOR_REVOKED", None)


async def test_a_disabled_executor_is_not_let_in(fleet: Fleet, gateway: Gateway) -> None:
    executor = await fleet.ground.executor(None)
    await fleet.ground.sql.execute("update executors set enabled = false")
    assert (await refused(fleet, gateway, executor.token))[:2] == (403, "EXECUTOR_REVOKED")


async def test_an_organization_is_told_when_its_executor_comes_and_goes(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    told: list[OrgNews] = []
    leave = await gateway.service.house.fanout.subscribe(
        org_channel(org), lambda data: told.append(decode(data or b""))
    )
    scripted = fleet.scripted(gateway, executor)
    await scripted.connect()
    await until(lambda: told == [OrgNews("agents", executor.id)], "its coming is told")
    await scripted.drop()
    await until(lambda: told == [OrgNews("agents", executor.id)] * 2, "its going is told")
    # Whoever asks then sees it offline.
    lost_at = await fleet.ground.sql.fetchval("select lost_at from executors where id = $1", UUID(executor.id))
    assert lost_at is not None
    await leave()


async def test_the_welcome_says_what_the_peer_must_know(fleet: Fleet, gateway: Gateway, org: OrgId) -> None:
    executor = await fleet.ground.executor(org, tags=("gpu", "eu"))
    scripted = fleet.scripted(gateway, executor, maxInFlight=500, tags=["mine"])
    welcome = await scripted.connect()
    assert welcome.pop("serverTime").endswith("Z")
    assert welcome == {
        "type": "welcome",
        "protocolVersion": 2,
        "connectionEpoch": 1,
        "executorId": executor.id,
        "organizationId": org,
        "heartbeatMs": 10_000,
        "staleMs": 60_000,
        "leaseMs": 45_000,
        "maxFrameBytes": 4_194_304,
        "maxInFlight": 200,
        "tags": ["gpu", "eu"],
    }
    row = await fleet.ground.sql.fetchrow("select * from executors where id = $1", UUID(executor.id))
    assert row is not None
    assert (row["reported_tags"], row["tags"], row["max_in_flight"]) == (["mine"], ["gpu", "eu"], 200)


async def test_whoever_is_shown_connected_can_be_given_work(fleet: Fleet, gateway: Gateway, executor: Executor) -> None:
    async def shown() -> bool:
        query = "select connected_at from executors where id = $1"
        return await fleet.ground.sql.fetchval(query, UUID(executor.id)) is not None

    scripted = fleet.scripted(gateway, executor)
    # Longer than the test: Redis holds back whatever would change it.
    await fleet.redis.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        await scripted.connect()
        for _ in range(30):
            await scripted.settled()
        assert not await shown()
    finally:
        await fleet.redis.execute_command("CLIENT", "UNPAUSE")
    await until(shown, "the executor is shown connected")
    assert await fleet.redis.hget(f"{{o:{executor.org_id}}}:x:{executor.id}", "r") == b"1"
    await scripted.drop()
    await scripted.connect()
    await fleet.routed(executor)
    await until(shown, "its next connection is shown")


async def test_a_late_report_does_not_bring_back_who_has_left(
    fleet: Fleet, gateway: Gateway, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = fleet.scripted(gateway, executor)
    await scripted.connect()
    await fleet.routed(executor)
    capacity = gateway.service.house.capacity
    has_left, upsert = asyncio.Event(), capacity.upsert
    told: list[str] = []

    async def late(presence: ExecutorPresence) -> Sequence[Next]:
        await has_left.wait()
        handed = await upsert(presence)
        told.append(presence.executor_id)
        return handed

    async def left() -> bool:
        return not await fleet.redis.sismember(f"{{o:{executor.org_id}}}:xs", executor.id)

    monkeypatch.setattr(capacity, "upsert", late)
    await scripted.send({"type": "draining", "reason": "stopping"})
    await scripted.settled()
    await scripted.drop()
    await until(left, "Redis is told that it has left")
    has_left.set()
    await until(lambda: told == [executor.id], "the report of its drain comes behind")
    await until(left, "and is taken back")
    assert await fleet.redis.hget(f"{{o:{executor.org_id}}}:x:{executor.id}", "e") is None


async def test_an_unknown_protocol_in_the_hello_closes_with_4426(
    fleet: Fleet, gateway: Gateway, executor: Executor
) -> None:
    scripted = fleet.scripted(gateway, executor)
    await scripted.open()
    await scripted.send({"type": "hello", "agentVersion": "1", "name": "x", "protocol": {"version": 9, "features": []}})
    assert await scripted.closed() == 4426


async def test_every_ping_is_answered_even_before_the_hello(fleet: Fleet, gateway: Gateway, executor: Executor) -> None:
    scripted = fleet.scripted(gateway, executor)
    await scripted.open("?protocol=2")
    await scripted.send({"type": "ping", "ts": 17})
    pong = await scripted.next("pong")
    assert (pong["ts"], pong["serverTime"][-1]) == (17, "Z")


@pytest.mark.promise("P10")
async def test_odd_frames_are_told_and_the_connection_lives(fleet: Fleet, gateway: Gateway, executor: Executor) -> None:
    scripted = await fleet.join(gateway, executor)
    await scripted.send({"type": "no_such_frame", "x": 1})
    await scripted.settled()
    assert scripted.unread("error") == []
    for text in ("nonsense", "[]", '{"type":"execute_result","requestId":7}', '{"type":"ping","ts":"soon"}'):
        await scripted.send_text(text)
        assert (await scripted.next("error"))["code"] == "BAD_REQUEST"
    await scripted.settled()


@pytest.mark.promise("P10")
@pytest.mark.parametrize("base", [False, True])
async def test_the_twentieth_bad_frame_of_a_minute_closes_with_1008(
    fleet: Fleet, gateway: Gateway, executor: Executor, base: bool
) -> None:
    scripted = await fleet.join(gateway, executor, base=base)
    for _ in range(19):
        await scripted.send_text("nonsense")
    await scripted.settled()
    assert len(scripted.unread("error")) == (0 if base else 19)
    await scripted.send_text("nonsense")
    assert await scripted.closed() == 1008


@pytest.mark.promise("P10")
async def test_a_frame_beyond_the_hard_limit_closes_with_1009(fleet: Fleet, executor: Executor) -> None:
    gateway = await fleet.gateway(max_frame_bytes=65_536)
    scripted = await fleet.join(gateway, executor)
    await scripted.send_text('{"type":"ping","x":"' + "x" * 70_000 + '"}')
    assert (await scripted.next("error"))["code"] == "BAD_REQUEST"
    await scripted.send_text("x" * 300_000)
    assert await scripted.closed() == 1009


@pytest.mark.promise("P4")
async def test_a_newer_socket_of_the_same_process_replaces_silently_and_another_process_is_told(
    fleet: Fleet, gateway: Gateway, executor: Executor
) -> None:
    other_gateway = await fleet.gateway()
    for where in (gateway, other_gateway):
        first = await fleet.join(gateway, executor)
        newer = await fleet.join(where, executor)
        assert await first.closed() == 1000
        stranger = fleet.scripted(where, executor)
        stranger.instance = "another process"
        await stranger.connect()
        assert await newer.closed() == 4409
        await stranger.drop()


@pytest.mark.promise("P4")
async def test_late_close_of_old_socket_keeps_new_registration(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    other_gateway = await fleet.gateway()
    old = await fleet.join(gateway, executor)
    new = await fleet.join(other_gateway, executor)
    await old.drop()
    await new.settled()
    await fleet.routed(executor)
    body = dispatch_body(org)
    assert (await gateway.dispatch_async(body)).status == 201
    await new.next("execute")
    row = await fleet.ground.sql.fetchrow("select * from executors")
    assert row is not None
    assert (row["lost_at"], str(row["edge_id"])) == (None, other_gateway.service.house.process_id)


async def test_a_silent_v2_peer_is_closed_as_stale(fleet: Fleet, executor: Executor) -> None:
    gateway = await fleet.gateway(heartbeat_ms=100, gateway_agent_stale_ms=900, agent_lease_ms=600)
    scripted = fleet.scripted(gateway, executor)
    await scripted.connect()
    await fleet.routed(executor)
    # It answers the gateway's own pings no more.
    scripted.is_mute = True
    await fleet.routed(executor, is_routable=False)
    assert await scripted.closed() == 4408


@pytest.mark.promise("P12")
async def test_a_stopping_gateway_sends_its_agents_elsewhere_and_lets_nobody_in(
    fleet: Fleet, gateway: Gateway, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    base = await fleet.join(gateway, await fleet.ground.executor(executor.org_id), base=True)
    gateway.service._sockets.begin_drain()
    assert (await scripted.next("reconnect"))["afterMs"] < 2_000
    assert await refused(fleet, gateway, executor.token) == (503, "GATEWAY_DRAINING", "1")
    elsewhere = await fleet.gateway()
    newer = fleet.scripted(elsewhere, executor)
    await newer.connect()
    assert await scripted.closed() in (1000, 1001)
    await fleet.stop(gateway)
    assert await base.closed() == 1001
    await fleet.routed(executor)


class Rotated:
    """An executor whose token is replaced as the control plane does it, with a grace of the test's own."""

    def __init__(self, gateway: Gateway, executor: Executor, org: OrgId) -> None:
        self.database = gateway.service.house.db
        self.executor = executor
        self.org = org

    async def rotate(self, grace_ms: int) -> Executor:
        """The executor as it is with its new token."""
        token = create_token(self.org, AGENT_TOKEN_PREFIX)
        async with self.database.tenant(self.org) as connection:
            agent = UUID(self.executor.id)
            assert await rotate_agent_token(connection, UUID(self.org), agent, hash_token(token), grace_ms)
        return Executor(self.executor.id, token, self.org)


@pytest.mark.parametrize("says_hello", [True, False])
async def test_a_socket_on_a_rotated_token_is_closed_when_its_grace_ends(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor, says_hello: bool
) -> None:
    old = fleet.scripted(gateway, executor)
    await (old.connect() if says_hello else old.open())
    if not says_hello:
        await old.settled()
    begun = time.monotonic()
    renewed = await Rotated(gateway, executor, org).rotate(1_500)
    assert await old.closed() == 4401
    assert time.monotonic() - begun >= 1.5
    assert (await refused(fleet, gateway, executor.token))[:2] == (401, "EXECUTOR_TOKEN_INVALID")
    # The end of the old token is not the end of the executor.
    new = await fleet.join(gateway, renewed)
    await new.settled()


async def test_a_socket_on_the_new_token_outlives_the_old_one(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    # Let in before this gateway has heard of the rotation, which it then does.
    slow = await fleet.gateway(feed_poll_ms=600)
    renewed = await Rotated(gateway, executor, org).rotate(800)
    new = await fleet.join(slow, renewed)
    late = fleet.scripted(gateway, executor)
    late.instance = new.instance
    await late.open()
    assert await late.closed() == 4401
    await new.settled()


async def test_a_second_rotation_closes_what_the_first_had_left(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    oldest = await fleet.join(gateway, executor)
    rotated = Rotated(gateway, executor, org)
    second = await rotated.rotate(600_000)
    await rotated.rotate(600_000)
    assert await oldest.closed() == 4401
    await fleet.join(gateway, second)
