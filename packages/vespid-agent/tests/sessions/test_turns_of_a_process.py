"""Turns of a real agent process, killed and signalled."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.running import AgentProcess, appears
from vespid_agent.testing.talk import Talk
from vespid_protocol import frames as f


@pytest.mark.promise("P8")
async def test_killed_while_it_answers_it_volunteers_nothing_and_never_starts_that_try_again(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    await process.start()
    talk = Talk(gateway)
    await talk.opened(await talk.open())
    script: list[dict[str, object]] = [{"touch": str(marks)}, {"until": str(tmp_path / "never")}]
    request = await talk.turn(script)
    await appears(marks)
    await process.kill()
    await process.start()
    link = await gateway.link(2)
    assert link.hello is not None
    assert (link.hello.in_flight, link.hello.unacked, link.hello.open_sessions) in (((), (), ()), (None, None, None))
    await talk.opened(await talk.open(link=link))
    await talk.turn(script, link=link)
    end = await gateway.turn_end(request)
    assert isinstance(end, f.TurnError)
    assert end.code == "AGENT_DISCONNECTED"
    again = await talk.turn("again", epoch=2, link=link)
    assert isinstance(await gateway.turn_end(again), f.TurnFinal)
    assert marks.read_text() == f"{request}\n"


@pytest.mark.promise("P8")
async def test_killed_before_its_answer_is_acknowledged_it_sends_it_after_the_restart(
    gateway: FakeGateway, process: AgentProcess
) -> None:
    gateway.faults.never_ack = True
    await process.start()
    talk = Talk(gateway)
    await talk.opened(await talk.open())
    request = await talk.turn("precious")
    await gateway.turn_end(request)
    await process.kill()
    gateway.faults.never_ack = False
    await process.start()
    end = await gateway.turn_end(request, count=2)
    assert isinstance(end, f.TurnFinal)
    assert end.content == "precious"


async def test_drain_finishes_what_runs_takes_nothing_new_and_gives_up_the_rest_in_silence(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    await process.start()
    finishes, stays, late = Talk(gateway), Talk(gateway), Talk(gateway)
    for talk in (finishes, stays, late):
        await talk.opened(await talk.open())
    first = await finishes.turn([{"touch": str(tmp_path / "a")}, {"until": str(go)}, {"say": "finished"}])
    second = await stays.turn([{"touch": str(tmp_path / "b")}, {"until": str(tmp_path / "never")}])
    await appears(tmp_path / "a")
    await appears(tmp_path / "b")
    link = await gateway.link()
    process.signal(signal.SIGTERM)
    await gateway.until(lambda: bool(link.of(f.Draining)))
    refused = await gateway.turn_end(await late.turn("late"))
    assert isinstance(refused, f.TurnError)
    assert refused.code == "EXECUTOR_OVER_CAPACITY"
    go.touch()
    assert isinstance(await gateway.turn_end(first), f.TurnFinal)
    process.signal(signal.SIGTERM)
    assert await process.exit_code() == 0
    assert second not in gateway.turn_ends
