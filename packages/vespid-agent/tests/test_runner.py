from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from vespid_agent.journal import Journal, JournalError, Outcome
from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import RUN_ID, FakeGateway
from vespid_agent.testing.payloads import action, decoded, echo, presence, shell
from vespid_agent.testing.running import InProcessAgent
from vespid_protocol import frames as f


def output(result: f.ExecuteResult) -> dict[str, object]:
    return decoded(result.output)


def waits_for(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.02; done"


async def full(journal: Journal) -> None:
    """Fill what is left of the disk."""
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
    for number in itertools.count():
        journal.begin(f"filler-{number}", 1, b"", False, outcomes.put_nowait)
        if isinstance(await outcomes.get(), JournalError):
            return


async def received(gateway: FakeGateway, request_id: str) -> None:
    await gateway.until(lambda: any(c.of(f.ExecuteReceived, request_id) for c in gateway.connections))


async def test_presence_is_answered_without_a_task(gateway: FakeGateway, agent: InProcessAgent) -> None:
    assert output(await gateway.run("agent.execute", presence())) == {"accepted": True, "nodeId": "n"}


async def test_shell_task_answers_with_its_output_and_exit_code(gateway: FakeGateway, agent: InProcessAgent) -> None:
    good = output(await gateway.run("agent.execute", shell("echo out; echo err >&2")))
    assert (good["backend"], good["exitCode"], good["stdout"], good["stderr"]) == ("host", 0, "out\n", "err\n")
    bad = await gateway.run("agent.execute", shell("echo partly; exit 3"))
    assert (bad.status, bad.error, output(bad)["stdout"]) == ("failed", "HOST_EXIT_CODE:3", "partly\n")


async def test_task_is_told_who_it_is(gateway: FakeGateway, agent: InProcessAgent) -> None:
    script = "echo $VESPID_IDEMPOTENCY_KEY $VESPID_REQUEST_ID"
    request = f"{RUN_ID}:build:3"
    said = output(await gateway.run("agent.execute", shell(script), request_id=request))["stdout"]
    assert said == f"{RUN_ID}:build {request}\n"


async def test_output_is_streamed_while_the_task_runs(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    request = await gateway.dispatch("agent.execute", shell(f"echo early; {waits_for(go)}; echo late"))
    link = await gateway.link()
    await gateway.until(lambda: bool(link.of(f.ExecuteEvent, request)))
    event = link.of(f.ExecuteEvent, request)[0].event
    assert (event.kind, event.level) == ("stdout", "info")
    assert decoded(event.payload) == {"text": "early\n", "offset": 0}
    assert request not in gateway.results
    go.touch()
    await gateway.result(request)
    texts = [str(decoded(frame.event.payload)["text"]) for frame in link.of(f.ExecuteEvent, request)]
    assert "".join(texts) == "early\nlate\n"


async def test_much_output_comes_in_few_events(gateway: FakeGateway, agent: InProcessAgent) -> None:
    request = await gateway.dispatch("agent.execute", shell("seq 1 5000"))
    await gateway.result(request)
    events = (await gateway.link()).of(f.ExecuteEvent, request)
    assert 3 <= len(events) <= 30
    assert [event.event.seq for event in events] == list(range(1, len(events) + 1))


@pytest.mark.promise("P2")
async def test_frames_delivered_three_times_start_one_task(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    gateway.faults.copies = 3
    marks = tmp_path / "marks"
    result = await gateway.run("agent.execute", shell(f"echo x >> {marks}; sleep 0.2"))
    assert result.status == "succeeded"
    await gateway.run("agent.run", echo("behind"))
    assert marks.read_text() == "x\n"


@pytest.mark.promise("P2")
async def test_running_request_is_joined_and_takes_the_higher_epoch(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    go, marks = tmp_path / "go", tmp_path / "marks"
    payload = shell(f"echo x >> {marks}; {waits_for(go)}")
    request = await gateway.dispatch("agent.execute", payload)
    await received(gateway, request)
    await gateway.dispatch("agent.execute", payload, request_id=request, lease_epoch=4)
    link = await gateway.link()
    await gateway.until(lambda: [r.lease_epoch for r in link.of(f.ExecuteReceived, request)][-1] == 4)
    await gateway.dispatch("agent.execute", payload, request_id=request, lease_epoch=2)
    go.touch()
    assert (await gateway.result(request)).lease_epoch == 4
    assert marks.read_text() == "x\n"


@pytest.mark.promise("P2")
async def test_finished_request_is_answered_from_the_journal_under_the_new_epoch(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    gateway.faults.never_ack = True
    marks = tmp_path / "marks"
    payload = shell(f"echo x >> {marks}; echo done")
    request = await gateway.dispatch("agent.execute", payload)
    first = await gateway.result(request)
    await gateway.dispatch("agent.execute", payload, request_id=request, lease_epoch=2)
    again = await gateway.result(request, count=2)
    assert (output(again), again.lease_epoch) == (output(first), 2)
    assert marks.read_text() == "x\n"


@pytest.mark.promise("P9")
async def test_more_than_there_is_room_for_is_declined_and_room_comes_back(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    agent = InProcessAgent(gateway, tmp_path, AgentSettings(max_in_flight=2, drain_ms=0))
    await agent.start()
    try:
        go, running = tmp_path / "go", tmp_path / "running"
        script = f"echo x >> {running}; {waits_for(go)}"
        requests = [await gateway.dispatch("agent.execute", shell(script)) for _ in range(5)]
        declined = [await gateway.result(request) for request in requests[2:]]
        assert [result.error for result in declined] == ["EXECUTOR_OVER_CAPACITY"] * 3
        link = await gateway.link()
        assert not any(link.of(f.ExecuteReceived, request) for request in requests[2:])
        go.touch()
        assert [(await gateway.result(request)).status for request in requests[:2]] == ["succeeded"] * 2
        assert running.read_text() == "x\nx\n"
        assert (await gateway.run("agent.execute", shell("true"), request_id=requests[4])).status == "failed"
        assert (await gateway.run("agent.execute", shell("true"))).status == "succeeded"
    finally:
        await agent.stop()


async def test_cancel_stops_the_task(gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    request = await gateway.dispatch(
        "agent.execute", shell(f"trap '' TERM; touch {alive}; while :; do sleep 0.05; done")
    )
    link = await gateway.link()
    await received(gateway, request)
    await link.send(f.ExecuteCancel(request_id=request, reason="user"))
    assert (await gateway.result(request)).error == "NODE_EXECUTION_CANCELLED"


@pytest.mark.promise("P2")
async def test_cancel_that_comes_first_keeps_the_request_from_starting(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    request, mark = f"{RUN_ID}:late:1", tmp_path / "mark"
    await (await gateway.link()).send(f.ExecuteCancel(request_id=request, reason="user"))
    assert (await gateway.result(request)).error == "NODE_EXECUTION_CANCELLED"
    await gateway.dispatch("agent.execute", shell(f"touch {mark}"), request_id=request)
    assert (await gateway.result(request, count=2)).error == "NODE_EXECUTION_CANCELLED"
    assert not mark.exists()


async def test_request_ends_with_its_time(gateway: FakeGateway, agent: InProcessAgent) -> None:
    result = await gateway.run("agent.execute", shell("echo begun; sleep 30"), timeout_ms=400)
    assert result.error == "NODE_EXECUTION_TIMEOUT"
    assert output(result)["stdout"] == "begun\n"


@pytest.mark.promise("P7")
async def test_secret_is_masked_in_events_result_and_journal(gateway: FakeGateway, agent: InProcessAgent) -> None:
    value = "canary-5d41402abc4b2a76"
    script = "echo one {{secrets.s1}} two; exit 4"
    request = await gateway.dispatch("agent.execute", shell(script, secrets_allowed=True), secrets={"s1": value})
    result = await gateway.result(request)
    assert output(result)["stdout"] == "one *** two\n"
    frames = (await gateway.link()).frames
    assert value.encode() not in msgspec.json.encode(frames)
    for path in agent.home.rglob("*"):
        assert not path.is_file() or value.encode() not in path.read_bytes(), path


@pytest.mark.promise("P7")
async def test_shell_gets_no_secret_unless_the_organization_allows(gateway: FakeGateway, agent: InProcessAgent) -> None:
    result = await gateway.run("agent.execute", shell("echo {{secrets.s1}}"), secrets={"s1": "canary-value"})
    assert result.error == "SECRET_NOT_ALLOWED_FOR_SHELL"


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        ("agent.execute", {}, "INVALID_EXECUTE_PAYLOAD"),
        ("agent.execute", {"node": {"id": "n", "config": {"task": {"type": "python"}}}}, "INVALID_EXECUTE_PAYLOAD"),
        ("agent.execute", shell("true", backend="docker"), "SANDBOX_UNAVAILABLE:docker"),
        ("agent.execute", shell("true", network="none"), "HOST_NETWORK_MODE_UNSUPPORTED"),
        ("agent.run", {"node": {"id": "n", "config": {"engine": {"id": "no.such.v1"}}}}, "EXECUTOR_UNSUPPORTED_ENGINE"),
        ("connector.action", {"connectorId": "http"}, "INVALID_ACTION_PAYLOAD"),
        ("connector.action", action("nosuch", "x", {}), "ACTION_NOT_SUPPORTED:nosuch:x"),
        ("agent.dance", {}, "INVALID_EXECUTE_PAYLOAD"),
    ],
)
async def test_what_cannot_be_done_fails_with_its_code(
    gateway: FakeGateway, agent: InProcessAgent, kind: str, payload: dict[str, object], code: str
) -> None:
    result = await gateway.run(kind, payload)
    assert (result.status, result.error) == ("failed", code)


async def test_connector_runs_here_with_its_secret(gateway: FakeGateway, agent: InProcessAgent) -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("X-Token"))
        return web.json_response({"ok": True})

    app = web.Application()
    app.router.add_get("/", answer)
    server = web.AppRunner(app)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{server.addresses[0][1]}/"
        asked = {"method": "GET", "url": url, "headers": {"X-Token": "{{secrets.s1}}"}}
        result = await gateway.run("connector.action", action("http", "request", asked), secrets={"s1": "canary-1234"})
        assert result.status == "succeeded", result.error_message
        assert seen == ["canary-1234"]
    finally:
        await server.cleanup()


@pytest.mark.promise("P2")
async def test_full_disk_declines_work_and_takes_it_again_later(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Journal] = []
    original = Journal.open.__func__  # type: ignore[attr-defined]

    def remember(cls: type[Journal], path: Path, executor_id: str) -> Journal:
        opened.append(original(cls, path, executor_id))
        return opened[-1]

    await gateway.link()
    await agent.stop()
    monkeypatch.setattr(Journal, "open", classmethod(remember))
    await agent.start()
    await gateway.link(2)
    journal, mark = opened[0], tmp_path / "mark"
    journal._connection.execute("pragma max_page_count = 1")
    await full(journal)
    assert (await gateway.run("agent.execute", shell(f"touch {mark}"))).error == "EXECUTOR_OVER_CAPACITY"
    journal.healthy = True  # so that the next one finds out by itself
    assert (await gateway.run("agent.execute", shell(f"touch {mark}"))).error == "EXECUTOR_OVER_CAPACITY"
    assert not mark.exists()
    journal._connection.execute("pragma max_page_count = 1000000")
    assert await journal.read("nothing") is None  # any write or read that succeeds makes it healthy
    assert (await gateway.run("agent.execute", shell(f"touch {mark}"))).status == "succeeded"
    assert mark.exists()
