from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from vespid_agent.link import Refused
from vespid_agent.lock import IdentityTaken
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import echo, shell
from vespid_agent.testing.running import InProcessAgent
from vespid_protocol import frames as f


async def test_hello_says_what_the_agent_can_do(gateway: FakeGateway, agent: InProcessAgent) -> None:
    hello = (await gateway.link()).hello
    assert hello is not None
    assert hello.capabilities is not None
    assert hello.capabilities.kinds == ("connector.action", "agent.execute", "agent.run")
    assert hello.capabilities.engines == ("vespid.loop.v1", "vespid.echo.v1")
    assert "github" in (hello.capabilities.connectors or ())
    assert hello.speaks_v2


async def test_a_base_only_gateway_is_served_in_full(tmp_path: Path) -> None:
    async with FakeGateway(v2=False) as gateway:
        agent = InProcessAgent(gateway, tmp_path)
        await agent.start()
        try:
            assert (await gateway.run("agent.run", echo("hi"))).status == "succeeded"
            answer = await gateway.run("agent.execute", shell("echo out"))
            assert answer.status == "succeeded"
            link = await gateway.link()
            assert [frame.lease_epoch for frame in link.of(f.ExecuteResult)] == [None, None]
            assert link.of(f.ExecuteReceived)
            gateway.faults.drop_on = {"execute_result"}
            kept = await gateway.dispatch("agent.run", echo("kept"))
            await gateway.until(lambda: link.closed)
            gateway.faults.drop_on = set()
            assert (await gateway.result(kept)).status == "succeeded"
        finally:
            await agent.stop()


@pytest.mark.promise("P3")
async def test_result_made_without_a_socket_is_sent_after_the_reconnect(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    request = await gateway.dispatch("agent.execute", shell(f"while [ ! -e {go} ]; do sleep 0.02; done; echo done"))
    link = await gateway.link()
    await gateway.until(lambda: bool(link.of(f.ExecuteReceived, request)))
    await gateway.stop()
    go.touch()
    await gateway.start()
    result = await gateway.result(request)
    assert result.status == "succeeded"


@pytest.mark.promise("P3")
async def test_result_is_sent_again_until_it_is_acknowledged(gateway: FakeGateway, agent: InProcessAgent) -> None:
    gateway.faults.never_ack = True
    request = await gateway.dispatch("agent.run", echo("hi"))
    await gateway.result(request)
    for count in (2, 3):
        (await gateway.link()).cut()
        hello = (await gateway.link(count)).hello
        assert hello is not None
        assert hello.unacked == (request,)
        await gateway.result(request, count=count)
    gateway.faults.never_ack = False
    (await gateway.link()).cut()
    await gateway.result(request, count=4)
    assert [result.status for result in gateway.results[request]] == ["succeeded"] * 4
    await gateway.run("agent.run", echo("behind the ack"))
    (await gateway.link()).cut()
    hello = (await gateway.link(5)).hello
    assert hello is not None
    assert hello.unacked in (None, ())


@pytest.mark.parametrize(("code", "said"), [(4401, "pair this machine"), (4403, "revoked"), (4426, "Update")])
async def test_final_close_codes_end_the_agent_with_a_reason(
    gateway: FakeGateway, agent: InProcessAgent, code: int, said: str
) -> None:
    await (await gateway.link()).close(code, "because")
    with pytest.raises(Refused, match=f"{code}.*{said}"):
        await agent.ended()


@pytest.mark.parametrize("status", [401, 403, 426])
async def test_final_http_refusals_end_the_agent(gateway: FakeGateway, tmp_path: Path, status: int) -> None:
    gateway.faults.refuse_status = status
    agent = InProcessAgent(gateway, tmp_path)
    await agent.start()
    with pytest.raises(Refused, match=str(status)):
        await agent.ended()


async def test_retry_after_is_obeyed(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.faults.refuse_status, gateway.faults.retry_after_s = 503, 1
    agent = InProcessAgent(gateway, tmp_path)
    await agent.start()
    try:
        await gateway.until(lambda: gateway.upgrades == 1)
        refused_at = time.monotonic()
        gateway.faults.refuse_status = None
        await gateway.link()
        assert time.monotonic() - refused_at >= 1.0
    finally:
        await agent.stop()


async def test_silent_gateway_is_left(tmp_path: Path) -> None:
    async with FakeGateway(heartbeat_ms=100, lease_ms=45_000, stale_ms=400) as gateway:
        agent = InProcessAgent(gateway, tmp_path)
        await agent.start()
        try:
            first = await gateway.link()
            await gateway.until(lambda: bool(first.of(f.Ping)))
            gateway.faults.mute = True
            await gateway.until(lambda: first.closed)
            gateway.faults.mute = False
            await gateway.link(2)
        finally:
            await agent.stop()


async def test_reconnect_frame_opens_the_next_socket_before_the_present_one_is_closed(
    gateway: FakeGateway, agent: InProcessAgent
) -> None:
    first = await gateway.link()
    await first.send(f.Reconnect(after_ms=10, reason="drain"))
    await gateway.until(lambda: gateway.upgrades == 2)
    assert not first.closed
    await gateway.until(lambda: first.closed)
    second = await gateway.link(2)
    assert second.hello is not None
    assert first.hello is not None
    assert second.hello.instance_id == first.hello.instance_id
    assert (await gateway.run("agent.run", echo("hi"))).status == "succeeded"


async def test_frames_that_are_no_frames_hurt_nobody(gateway: FakeGateway, agent: InProcessAgent) -> None:
    link = await gateway.link()
    for content in (b"", b"{", b"[]", b'{"type":"unheard_of"}', b'{"type":"execute"}', b'{"type":"execute_ack"}'):
        await link.send_raw(content)
    assert (await gateway.run("agent.run", echo("hi"))).status == "succeeded"
    assert len(gateway.connections) == 1


async def test_result_over_the_frame_limit_fails_its_request_and_not_the_connection(tmp_path: Path) -> None:
    async with FakeGateway(max_frame_bytes=4000) as gateway:
        agent = InProcessAgent(gateway, tmp_path)
        await agent.start()
        try:
            result = await gateway.run("agent.run", echo("x" * 5000))
            assert result.error == "RESULT_TOO_LARGE"
            assert (await gateway.run("agent.run", echo("hi"))).status == "succeeded"
            assert len(gateway.connections) == 1
        finally:
            await agent.stop()


@pytest.mark.promise("P3")
async def test_after_1009_the_largest_result_is_replaced(gateway: FakeGateway, agent: InProcessAgent) -> None:
    gateway.faults.never_ack = True
    small = await gateway.dispatch("agent.run", echo("small"))
    large = await gateway.dispatch("agent.run", echo("x" * 200_000))
    await gateway.result(large)
    await gateway.result(small)
    await (await gateway.link()).close(1009, "too big")
    await gateway.until(lambda: gateway.results[large][-1].error == "RESULT_TOO_LARGE")
    assert (await gateway.result(small, count=2)).status == "succeeded"


async def test_second_process_of_an_identity_is_refused(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    await gateway.link()
    second = InProcessAgent(gateway, tmp_path)
    await second.start()
    with pytest.raises(IdentityTaken, match="already runs"):
        await second.ended()


async def test_stopping_closes_the_socket_properly(gateway: FakeGateway, agent: InProcessAgent) -> None:
    link = await gateway.link()
    with contextlib.suppress(Exception):
        await agent.stop()
    await gateway.until(lambda: link.closed)
    assert link.close_code == 1001
