"""A node whose host dies, is shut down, or waits for people: the next attempt goes on from what was kept."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest
from tests.support.model_server import ModelServer, Say, Tool, call_tools

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import RUN_ID, FakeGateway
from vespid_agent.testing.payloads import decoded, prompt
from vespid_agent.testing.running import AgentProcess, InProcessAgent, appears
from vespid_agent.work import agent_stream
from vespid_protocol import frames as f

from .conftest import OWN_KEY, Desk

HTTP = "connector.http.request"
FIRST, SECOND, THIRD = (f"{RUN_ID}:n:{attempt}" for attempt in (1, 2, 3))
SECRET = "canary-7d1f0e9b44"


def failure(result: f.ExecuteResult, error: str) -> dict[str, object]:
    """What it brings along."""
    assert (result.status, result.error) == ("failed", error), result
    return decoded(result.output)


async def test_killed_between_two_calls_the_node_goes_on_and_repeats_none_that_finished(
    gateway: FakeGateway, process: AgentProcess, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/one"), text="First one."), call_tools(desk.get("/slow/two")))
    payload = prompt("Do both.", allow=[HTTP])
    await process.start()
    await gateway.dispatch("agent.run", payload, request_id=FIRST)
    await desk.until("/one", "/slow/two")
    await process.kill()
    await process.start()
    kept = failure(await gateway.result(FIRST), "AGENT_DISCONNECTED")
    assert list(kept) == ["loop"]

    # And once more, before the second attempt has come any further.
    await gateway.dispatch(
        "agent.run", {**payload, "resume": kept["loop"]}, request_id=SECOND, link=await gateway.link(2)
    )
    await desk.until_called("/slow/two", 2)
    await process.kill()
    await process.start()
    kept = failure(await gateway.result(SECOND), "AGENT_DISCONNECTED")

    desk.let.set()
    model.will(Say("Both done."))
    await gateway.dispatch(
        "agent.run", {**payload, "resume": kept["loop"]}, request_id=THIRD, link=await gateway.link(3)
    )
    result = await gateway.result(THIRD)
    assert result.status == "succeeded", result
    assert decoded(result.output)["text"] == "Both done."
    assert desk.calls == ["/one", "/slow/two", "/slow/two", "/slow/two"]
    # What the model had said it did not have to say again.
    assert len(model.requests) == 3


@pytest.mark.promise("P12")
async def test_shut_down_in_mid_call_the_node_goes_on_elsewhere(
    gateway: FakeGateway, process: AgentProcess, model: ModelServer, desk: Desk
) -> None:
    process.environment["VESPID_AGENT_DRAIN_MS"] = "0"
    model.will(call_tools(desk.get("/one")), call_tools(desk.get("/slow/two")))
    payload = prompt("Do both.", allow=[HTTP])
    await process.start()
    await gateway.dispatch("agent.run", payload, request_id=FIRST)
    await desk.until("/slow/two")
    process.signal(signal.SIGTERM)
    assert await process.exit_code() == 0
    kept = failure(await gateway.result(FIRST), "AGENT_DISCONNECTED")
    desk.let.set()
    model.will(Say("Both done."))
    await process.start()
    link = await gateway.link(2)
    await gateway.dispatch("agent.run", {**payload, "resume": kept["loop"]}, request_id=SECOND, link=link)
    assert (await gateway.result(SECOND)).status == "succeeded"
    assert desk.calls == ["/one", "/slow/two", "/slow/two"]


@pytest.mark.promise("P7")
async def test_no_secret_is_in_what_is_kept(
    gateway: FakeGateway, process: AgentProcess, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/one"), text=f"I know {SECRET} and {OWN_KEY}."), call_tools(desk.get("/slow/two")))
    tools = {"allow": [HTTP], "auth": {"http": {"secretId": "s1"}}}
    await process.start()
    payload = prompt("Go.", allow=[HTTP], config={"tools": tools})
    await gateway.dispatch("agent.run", payload, request_id=FIRST, secrets={"s1": SECRET})
    await desk.until("/slow/two")
    await process.kill()
    left = b"".join(path.read_bytes() for path in process.home.glob("journal*.sqlite*"))
    assert b"I know *** and ***." in left
    assert b"Bearer ***" in left
    await process.start()
    kept = failure(await gateway.result(FIRST), "AGENT_DISCONNECTED")
    assert "I know *** and ***." in str(kept)
    frames = b"".join(msgspec.json.encode(link.frames) for link in gateway.connections)
    for told in (left, frames, process.log.read_bytes()):
        assert SECRET.encode() not in told
        assert OWN_KEY.encode() not in told


@pytest.mark.parametrize(("decision", "calls"), [("approved", ["/ticket"]), ("denied", []), ("expired", [])])
async def test_call_that_people_have_to_allow_waits_for_them(
    gateway: FakeGateway,
    agent: InProcessAgent,
    model: ModelServer,
    desk: Desk,
    decision: str,
    calls: list[str],
) -> None:
    model.will(call_tools(desk.get("/ticket")))
    tools = {"allow": [HTTP], "approval": {"connector.http.*": {"by": "owner", "timeoutMs": 5000}}}
    payload = prompt("Go.", allow=[HTTP], config={"tools": tools})
    await gateway.dispatch("agent.run", payload, request_id=FIRST)
    parked = failure(await gateway.result(FIRST), "APPROVAL_REQUIRED")
    assert desk.calls == []
    (asked,) = msgspec.convert(parked["approvals"], list[dict[str, object]])
    assert (asked["n"], asked["tool"], asked["by"], asked["timeoutMs"]) == (0, HTTP, "owner", 5000)
    assert str(asked["arguments"]).count("/ticket") == 1

    model.will(Say("So be it."))
    decided = {key: asked[key] for key in ("n", "tool", "digest")} | {"decision": decision}
    again = {**payload, "resume": parked["loop"], "approvals": [decided]}
    await gateway.dispatch("agent.run", again, request_id=SECOND)
    result = await gateway.result(SECOND)
    assert result.status == "succeeded", result
    assert desk.calls == calls
    told = str(model.requests[1].body)
    assert ("APPROVAL_DENIED" in told, "APPROVAL_EXPIRED" in told) == (decision == "denied", decision == "expired")


async def test_loop_that_no_frame_holds_stays_behind_and_the_failure_is_told(
    tmp_path: Path, settings: AgentSettings, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/ticket"), text="x" * 70_000))
    async with FakeGateway(max_frame_bytes=64 * 1024) as small:
        running = InProcessAgent(small, tmp_path, settings)
        await running.start()
        try:
            await small.link()
            tools = {"allow": [HTTP], "approval": {HTTP: {}}}
            payload = prompt("Go.", allow=[HTTP], config={"tools": tools})
            parked = failure(await small.run("agent.run", payload), "APPROVAL_REQUIRED")
            assert parked.keys() & {"loop", "approvals"} == {"approvals"}
        finally:
            await running.stop()


async def test_kept_loop_that_the_gateway_does_not_take_stays_behind_after_a_crash(
    tmp_path: Path, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/slow/one"), text="x" * 70_000))
    environment = {"OPENAI_API_KEY": OWN_KEY, "OPENAI_BASE_URL": model.openai_url}
    # It closes the socket over a frame of four times as much.
    async with FakeGateway(max_frame_bytes=16 * 1024) as small:
        process = AgentProcess(small, tmp_path / "agent", environment)
        await process.start()
        try:
            await small.dispatch("agent.run", prompt("Go.", allow=[HTTP]), request_id=FIRST)
            await desk.until("/slow/one")
            await process.kill()
            await process.start()
            assert failure(await small.result(FIRST), "AGENT_DISCONNECTED") == {}
        finally:
            await process.stop()


async def test_what_is_too_large_to_keep_leaves_nothing_older_behind(
    gateway: FakeGateway,
    agent: InProcessAgent,
    model: ModelServer,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model.will(call_tools(desk.get("/one")), call_tools(desk.get("/slow/two"), text="x" * 9_000))
    monkeypatch.setattr(agent_stream, "KEPT_MAX_BYTES", 8_000)
    request = await gateway.dispatch("agent.run", prompt("Go.", allow=[HTTP]))
    await desk.until("/slow/two")
    # To go on from what was kept before would be to make the first call again.
    await agent.stop()
    await agent.start()
    assert (await gateway.result(request)).output is msgspec.UNSET


async def test_commands_that_a_killed_agent_left_running_are_ended_all_of_them(
    gateway: FakeGateway, process: AgentProcess, model: ModelServer, tmp_path: Path
) -> None:
    # Under its name once it is whole.
    files = [tmp_path / name for name in ("one", "two")]
    scripts = [f"echo $$ > {file}.new; mv {file}.new {file}; exec sleep 600" for file in files]
    model.will(call_tools(*(Tool("shell_run", {"script": script}) for script in scripts)))
    payload = prompt("Go.", allow=["shell.run"], organizationSettings={"tools": {"shellRunEnabled": True}})
    await process.start()
    await gateway.dispatch("agent.run", payload, request_id=FIRST)
    for file in files:
        await appears(file)
    pids = [int(file.read_text()) for file in files]
    await process.kill()
    await process.start()
    failure(await gateway.result(FIRST), "AGENT_DISCONNECTED")
    assert [is_running(pid) for pid in pids] == [False, False]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
