"""A real agent process, killed, stopped and signalled."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from vespid_agent import config
from vespid_agent.testing.fake_gateway import ORGANIZATION_ID, FakeGateway
from vespid_agent.testing.payloads import decoded, echo, shell
from vespid_agent.testing.running import AgentProcess, appears
from vespid_protocol import frames as f


async def dies(pid: int) -> None:
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.02)


def endless(marks: Path, pid: Path) -> str:
    return f"echo x >> {marks}; echo $$ > {pid}.tmp; mv {pid}.tmp {pid}; while :; do sleep 0.05; done"


@pytest.mark.promise("P2")
@pytest.mark.promise("P3")
async def test_killed_while_it_works_it_reaps_reports_and_never_starts_again(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    marks, pid = tmp_path / "marks", tmp_path / "pid"
    await process.start()
    payload = shell(endless(marks, pid))
    request = await gateway.dispatch("agent.execute", payload)
    await appears(pid)
    await process.kill()
    await process.start()
    result = await gateway.result(request)
    assert result.error == "AGENT_DISCONNECTED"
    await dies(int(pid.read_text()))
    hello = (await gateway.link(2)).hello
    assert hello is not None
    assert hello.in_flight in (None, ())
    assert hello.unacked == (request,)
    for epoch in (1, 2):
        again = len(gateway.results[request])
        await gateway.dispatch("agent.execute", payload, request_id=request, lease_epoch=epoch)
        assert (await gateway.result(request, count=again + 1)).error == "AGENT_DISCONNECTED"
    assert marks.read_text() == "x\n"


@pytest.mark.promise("P2")
async def test_killed_under_resend_it_keeps_the_failure_to_itself(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    marks, pid = tmp_path / "marks", tmp_path / "pid"
    await process.start()
    payload = shell(endless(marks, pid))
    request = await gateway.dispatch("agent.execute", payload, on_lost="resend")
    await appears(pid)
    await process.kill()
    await process.start()
    link = await gateway.link(2)
    await dies(int(pid.read_text()))
    await gateway.run("agent.run", echo("behind"))
    assert link.hello is not None
    assert link.hello.unacked in (None, ())
    assert request not in gateway.results
    await gateway.dispatch("agent.execute", payload, request_id=request, lease_epoch=2)
    assert (await gateway.result(request)).error == "AGENT_DISCONNECTED"
    assert marks.read_text() == "x\n"


@pytest.mark.promise("P3")
async def test_killed_before_its_result_is_acknowledged_it_sends_it_after_the_restart(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    gateway.faults.never_ack = True
    await process.start()
    request = await gateway.dispatch("agent.execute", shell(f"echo x >> {marks}; echo precious"))
    await gateway.result(request)
    await process.kill()
    await process.start()
    gateway.faults.never_ack = False
    again = await gateway.result(request, count=2)
    assert decoded(again.output)["stdout"] == "precious\n"
    await gateway.run("agent.run", echo("behind the ack"))
    await process.kill()
    await process.start()
    hello = (await gateway.link(3)).hello
    assert hello is not None
    assert marks.read_text() == "x\n"


@pytest.mark.promise("P3")
async def test_killed_with_a_result_that_never_left_it_sends_it_after_the_restart(
    gateway: FakeGateway, process: AgentProcess
) -> None:
    gateway.faults.drop_on = {"execute_result"}
    await process.start()
    request = await gateway.dispatch("agent.run", echo("precious"))
    link = await gateway.link()
    await gateway.until(lambda: link.closed)
    await process.kill()
    gateway.faults.drop_on = set()
    await process.start()
    assert decoded((await gateway.result(request)).output)["text"] == "precious"


@pytest.mark.promise("P2")
async def test_tombstone_survives_the_process(gateway: FakeGateway, process: AgentProcess, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    await process.start()
    payload = shell(f"echo x >> {marks}")
    request = await gateway.dispatch("agent.execute", payload)
    await gateway.result(request)
    await gateway.run("agent.execute", shell("true"))
    process.signal(signal.SIGTERM)
    assert await process.exit_code() == 0
    await process.start()
    await gateway.dispatch("agent.execute", payload, request_id=request, lease_epoch=2, link=await gateway.link(2))
    assert (await gateway.result(request, count=2)).error == "AGENT_DISCONNECTED"
    assert marks.read_text() == "x\n"


@pytest.mark.promise("P4")
async def test_stopped_past_its_lease_it_stops_its_work_before_it_says_anything(tmp_path: Path) -> None:
    async with FakeGateway(heartbeat_ms=200, lease_ms=6_000, stale_ms=60_000) as gateway:
        process = AgentProcess(gateway, tmp_path / "agent")
        await process.start()
        try:
            link = await gateway.link()
            await gateway.until(lambda: bool(link.of(f.Ping)))
            lost, kept = [(tmp_path / name, tmp_path / f"{name}.pid") for name in ("lost", "kept")]
            chatty = f"echo $$ > {lost[1]}.tmp; mv {lost[1]}.tmp {lost[1]}; while :; do echo noise; sleep 0.01; done"
            failing = await gateway.dispatch("agent.execute", shell(chatty), on_lost="fail", lease_epoch=3)
            waiting = await gateway.dispatch("agent.execute", shell(endless(*kept)), on_lost="wait", lease_epoch=3)
            await appears(lost[1])
            await appears(kept[1])
            process.signal(signal.SIGSTOP)
            await asyncio.sleep(2.5)  # the lease itself has to run out
            heard = len(link.frames)
            fresh = await gateway.dispatch("agent.execute", shell(f"touch {tmp_path / 'fresh'}"), lease_epoch=1)
            process.signal(signal.SIGCONT)
            await gateway.until(
                lambda: len(link.of(f.Ping)) > 0 and any(isinstance(x, f.Ping) for x in link.frames[heard:])
            )
            await dies(int(lost[1].read_text()))
            assert (await gateway.result(fresh)).error == "EXECUTOR_OVER_CAPACITY"
            after = link.frames[heard:]
            assert not [x for x in after if isinstance(x, f.ExecuteEvent | f.ExecuteResult) and x.request_id == failing]
            assert failing not in gateway.results
            assert not (tmp_path / "fresh").exists()
            assert Path(f"/proc/{int(kept[1].read_text())}").exists()
            await link.send(f.ExecuteCancel(request_id=waiting, reason="enough"))
            assert (await gateway.result(waiting)).error == "NODE_EXECUTION_CANCELLED"
            await gateway.dispatch("agent.execute", shell(chatty), request_id=failing, lease_epoch=4)
            assert (await gateway.result(failing)).error == "AGENT_DISCONNECTED"
        finally:
            await process.stop()


@pytest.mark.promise("P12")
async def test_sigterm_lets_work_finish_and_delivers_it(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    await process.start()
    script = f"touch {begun}; while [ ! -e {go} ]; do sleep 0.02; done; echo done"
    request = await gateway.dispatch("agent.execute", shell(script))
    await appears(begun)
    process.signal(signal.SIGTERM)
    link = await gateway.link()
    await gateway.until(lambda: bool(link.of(f.Draining)))
    assert (await gateway.run("agent.execute", shell("true"))).error == "EXECUTOR_OVER_CAPACITY"
    go.touch()
    assert (await gateway.result(request)).status == "succeeded"
    assert await process.exit_code() == 0
    assert link.close_code == 1001


@pytest.mark.promise("P12")
async def test_second_sigterm_does_not_wait_and_leaves_nothing_running(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    marks, pid = tmp_path / "marks", tmp_path / "pid"
    await process.start()
    request = await gateway.dispatch("agent.execute", shell(endless(marks, pid)))
    await appears(pid)
    process.signal(signal.SIGTERM)
    link = await gateway.link()
    await gateway.until(lambda: bool(link.of(f.Draining)))
    process.signal(signal.SIGTERM)
    assert await process.exit_code() == 0
    await dies(int(pid.read_text()))
    assert (await gateway.result(request)).error == "AGENT_DISCONNECTED"


async def test_heartbeats_go_on_while_every_slot_works(tmp_path: Path) -> None:
    async with FakeGateway(heartbeat_ms=100, lease_ms=45_000, stale_ms=60_000) as gateway:
        process = AgentProcess(gateway, tmp_path / "agent")
        await process.start()
        try:
            link = await gateway.link()
            busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo $i; done"
            requests = [await gateway.dispatch("agent.execute", shell(busy)) for _ in range(4)]
            await gateway.until(lambda: all(link.of(f.ExecuteEvent, request) for request in requests))
            pings = len(link.of(f.Ping))
            await gateway.until(lambda: len(link.of(f.Ping)) >= pings + 3)
            for request in requests:
                await gateway.result(request)
        finally:
            await process.stop()


async def test_revoked_agent_exits_non_zero_and_says_why(gateway: FakeGateway, process: AgentProcess) -> None:
    await process.start()
    await (await gateway.link()).close(4403, "revoked")
    assert await process.exit_code() == 1
    assert "revoked" in process.log.read_text()


async def test_damaged_journal_refuses_to_start(gateway: FakeGateway, process: AgentProcess) -> None:
    process.home.mkdir()
    process.journal.write_bytes(os.urandom(20_000))
    await process.start()
    assert await process.exit_code() == 4
    assert "move it away" in process.log.read_text()
    assert not gateway.connections


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_rotated_token_ends_it_only_where_the_config_has_no_newer_one(
    gateway: FakeGateway, process: AgentProcess, is_told: bool
) -> None:
    await process.start()
    first = await gateway.link()
    gateway.token = f"{ORGANIZATION_ID}.vsp_rotated"
    if is_told:
        identity = config.load(process.config, pytest.fail)
        config.save(process.config, msgspec.structs.replace(identity, executor_token=gateway.token))
    await first.close(4401, "rotated")
    if is_told:
        assert (await gateway.link(2)).hello is not None
    else:
        assert await process.exit_code() == 1
        assert "Put the new one into the config" in process.log.read_text()
