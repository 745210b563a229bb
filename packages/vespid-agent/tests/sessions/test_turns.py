"""Turns on a whole agent, over a real socket."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vespid_agent.clock import suspend_aware_ms
from vespid_agent.sessions import open_sessions, turns
from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import ORGANIZATION_ID, TOKEN, FakeGateway
from vespid_agent.testing.payloads import decoded
from vespid_agent.testing.running import InProcessAgent, appears
from vespid_agent.testing.scripted_engine import ScriptedEngine
from vespid_agent.testing.talk import Talk
from vespid_protocol import frames as f
from vespid_runtime.memory import content_sha256


def error(end: f.TurnFinal | f.TurnError) -> f.TurnError:
    assert isinstance(end, f.TurnError)
    return end


def content(end: f.TurnFinal | f.TurnError) -> str:
    assert isinstance(end, f.TurnFinal), end
    return end.content


async def test_echo_answers_word_by_word(gateway: FakeGateway, agent: InProcessAgent) -> None:
    talk = Talk(gateway, engine="vespid.echo.v1")
    end = await talk.say("one two three")
    link = await gateway.link()
    assert content(end) == "one two three"
    assert [delta.content for delta in link.of(f.TurnDelta)] == ["one ", "two ", "three"]
    assert link.hello is not None
    assert link.hello.capabilities is not None
    assert link.hello.capabilities.engines == ("vespid.loop.v1", "vespid.echo.v1", "vespid.scripted.v1")


async def test_text_and_tool_events_keep_their_order(gateway: FakeGateway, talk: Talk) -> None:
    await talk.say([{"say": "a"}, {"tool": "t", "input": 1, "result": 2}, {"say": "b"}])
    frames = (await gateway.link()).frames
    told = [
        frame.content if isinstance(frame, f.TurnDelta) else (frame.event.kind, frame.event.seq)
        for frame in frames
        if isinstance(frame, f.TurnDelta | f.TurnEvent)
    ]
    assert told == ["a", ("tool_call", 1), ("tool_result", 2), "b"]


@pytest.mark.promise("P8")
async def test_each_turn_knows_all_that_came_before(gateway: FakeGateway, talk: Talk) -> None:
    await talk.say("first")
    await talk.say("second")
    seen = msgspec.json.decode(content(await talk.say([{"history": True}])))
    assert [[role, text] for _, role, text in seen] == [
        ["user", "first"],
        ["assistant", "first"],
        ["user", "second"],
        ["assistant", "second"],
    ]


@pytest.mark.promise("P8")
async def test_turn_delivered_again_runs_once_and_is_answered_from_the_journal(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    gateway.faults.copies = 3
    await talk.opened(await talk.open())
    request = await talk.turn([{"touch": str(tmp_path / "marks")}, {"say": "x"}])
    await gateway.turn_end(request)
    again = len(gateway.turn_ends[request])
    await talk.turn([{"say": "another"}])
    assert isinstance(await gateway.turn_end(request, count=again + 1), f.TurnFinal | f.TurnError)
    assert (tmp_path / "marks").read_text() == f"{request}\n"


@pytest.mark.promise("P8")
async def test_turn_goes_on_without_a_link_and_tells_its_whole_text_on_the_next(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    await talk.opened(await talk.open())
    first = await gateway.link()
    script: list[dict[str, object]] = [{"say": "before "}, {"tool": "t"}, {"until": str(go)}, {"say": "after"}]
    request = await talk.turn(script)
    await gateway.until(lambda: len(first.of(f.TurnEvent, request)) == 2)
    first.cut()
    second = await gateway.link(2)
    assert second.hello is not None
    assert second.hello.in_flight == (f.InFlight(request_id=request),)
    await gateway.until(lambda: len(second.of(f.TurnEvent, request)) == 2)
    assert talk.text(request, second) == "before "
    go.touch()
    assert content(await gateway.turn_end(request)) == "before after"
    assert talk.text(request, second) == "before after"


@pytest.mark.promise("P8")
async def test_end_is_sent_on_every_link_until_it_is_acknowledged(gateway: FakeGateway, talk: Talk) -> None:
    gateway.faults.never_ack = True
    await talk.opened(await talk.open())
    request = await talk.turn("precious")
    await gateway.turn_end(request)
    link = await gateway.link()
    link.cut()
    hello = (await gateway.link(2)).hello
    assert hello is not None
    assert hello.unacked == (request,)
    assert content(await gateway.turn_end(request, count=2)) == "precious"
    # What is not acknowledged does not count as here.
    assert hello.open_sessions is not None
    assert hello.open_sessions[0].history_seq == 0


async def test_open_session_is_told_with_what_it_has(gateway: FakeGateway, talk: Talk) -> None:
    await talk.say("one")
    await talk.say("two")
    await gateway.run("agent.execute", {"nodeId": "n", "node": {"id": "n", "config": {}}, "runId": "r"})
    (await gateway.link()).cut()
    hello = (await gateway.link(2)).hello
    assert hello is not None
    assert hello.open_sessions == (f.OpenSession(session_id=talk.session_id, generation=1, history_seq=3),)


async def test_session_that_is_not_open_is_declined_behind_a_hello(gateway: FakeGateway, talk: Talk) -> None:
    request = await talk.turn("hi")
    assert error(await gateway.turn_end(request)).code == "EXECUTOR_OVER_CAPACITY"
    kinds = [type(frame) for frame in (await gateway.link()).frames if isinstance(frame, f.Hello | f.TurnError)]
    # Beside the first one; another may come meanwhile, of what was found on this machine.
    assert kinds[-2:] == [f.Hello, f.TurnError]
    assert len(kinds) >= 3


@pytest.mark.promise("P8")
async def test_turns_of_a_session_run_one_at_a_time_in_their_order(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    await talk.opened(await talk.open())
    first = await talk.turn([{"until": str(go)}, {"say": "one"}])
    second = await talk.turn([{"history": True}], seq=talk.seq + 2)
    await gateway.run("agent.execute", {"nodeId": "n", "node": {"id": "n", "config": {}}, "runId": "r"})
    go.touch()
    assert content(await gateway.turn_end(first)) == "one"
    seen = msgspec.json.decode(content(await gateway.turn_end(second)))
    assert [text for _, role, text in seen if role == "assistant"] == ["one"]


async def test_sessions_beyond_the_agents_number_are_closed_and_that_is_said(
    gateway: FakeGateway, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_sessions, "SESSIONS_MAX", 1)
    other = Talk(gateway)
    await talk.opened(await talk.open())
    await other.opened(await other.open())
    link = await gateway.link()

    def told() -> list[str]:
        # What an engine's probe finds is told by a hello of its own, now or later.
        return [session.session_id for session in link.of(f.Hello)[-1].open_sessions or ()]

    await gateway.until(lambda: told() == [other.session_id])


# --- stopping --------------------------------------------------------------------------------------------------------


async def running(gateway: FakeGateway, talk: Talk, tmp_path: Path, *steps: dict[str, object]) -> str:
    """A turn that has begun and does not end by itself."""
    mark = tmp_path / "running"
    mark.unlink(missing_ok=True)
    await talk.opened(await talk.open())
    request = await talk.turn([*steps, {"touch": str(mark)}, {"until": str(tmp_path / "never")}])
    await appears(mark)
    return request


async def test_cancel_ends_the_turn_and_its_memory_with_it(gateway: FakeGateway, talk: Talk, tmp_path: Path) -> None:
    request = await running(gateway, talk, tmp_path, {"remember": "MEMORY.md", "content": "half"})
    await talk.cancel(request)
    assert error(await gateway.turn_end(request)).code == "TURN_CANCELLED"
    talk.seq += 2
    assert content(await talk.say([{"recall": "MEMORY.md"}, {"history": True}])) == "(nothing)[]"


async def test_engine_that_does_not_stop_is_not_waited_for(
    gateway: FakeGateway,
    talk: Talk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(turns, "STOP_GRACE_S", 0.05)
    request = await running(gateway, talk, tmp_path, {"deaf": 5})
    await talk.cancel(request)
    assert error(await gateway.turn_end(request)).code == "TURN_CANCELLED"
    assert "engine_did_not_stop" in capfd.readouterr().out
    talk.seq += 2
    assert content(await talk.say("next")) == "next"


async def test_engine_that_needs_a_moment_to_stop_is_given_it(
    gateway: FakeGateway,
    talk: Talk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(turns, "STOP_GRACE_S", 30.0)
    request = await running(gateway, talk, tmp_path, {"deaf": 0.3})
    await talk.cancel(request)
    assert error(await gateway.turn_end(request)).code == "TURN_CANCELLED"
    assert "engine_did_not_stop" not in capfd.readouterr().out


async def test_turn_stopped_while_it_waits_in_line_is_over_at_once(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    first = await running(gateway, talk, tmp_path)
    talk.seq += 2
    second, third = await talk.turn([{"touch": str(tmp_path / "mark")}]), await talk.turn("third", seq=talk.seq + 2)
    await talk.cancel(second)
    assert error(await gateway.turn_end(second)).code == "TURN_CANCELLED"
    assert gateway.turn_ends.keys() == {second}
    await talk.cancel(first)
    assert content(await gateway.turn_end(third)) == "third"
    assert not (tmp_path / "mark").exists()


async def test_time_limit_ends_the_turn(gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path) -> None:
    talk = Talk(gateway, limits={"timeoutMs": 100})
    assert error(await talk.say([{"until": str(tmp_path / "never")}])).code == "NODE_EXECUTION_TIMEOUT"


async def test_time_limit_counts_while_the_machine_sleeps_and_its_timers_stand_still(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    slept_ms = 0
    agent = InProcessAgent(
        gateway, tmp_path, engines=[ScriptedEngine()], monotonic_ms=lambda: suspend_aware_ms() + slept_ms
    )
    await agent.start()
    try:
        talk = Talk(gateway, limits={"timeoutMs": 40_000})
        request = await running(gateway, talk, tmp_path)
        slept_ms = 40_000
        assert error(await gateway.turn_end(request)).code == "NODE_EXECUTION_TIMEOUT"
    finally:
        await agent.stop()


@pytest.mark.promise("P8")
async def test_newer_try_of_a_turn_takes_the_place_of_the_older(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    older = await running(gateway, talk, tmp_path)
    newer = await talk.turn([{"prior": True}], epoch=2, prior=[{"kind": "tool_call", "payload": {"tool": "t"}}])
    assert error(await gateway.turn_end(older)).code == "TURN_CANCELLED"
    assert content(await gateway.turn_end(newer)) == '[["tool_call",{"tool":"t"}]]'


@pytest.mark.promise("P8")
async def test_older_try_that_comes_behind_a_newer_one_is_not_run(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    go, mark = tmp_path / "go", tmp_path / "mark"
    await talk.opened(await talk.open())
    newer = await talk.turn([{"until": str(go)}, {"say": "newer"}], epoch=2)
    older = await talk.turn([{"touch": str(mark)}], epoch=1)
    assert error(await gateway.turn_end(older)).code == "TURN_CANCELLED"
    go.touch()
    assert content(await gateway.turn_end(newer)) == "newer"
    assert not mark.exists()


@pytest.mark.promise("P8")
async def test_session_opened_in_another_generation_stops_what_ran_in_the_older(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    older = await running(gateway, talk, tmp_path)
    talk.generation = 2
    talk.history = [f.HistoryEntry(seq=1, role="user", content="told elsewhere")]
    talk.seq = 3
    await talk.opened(await talk.open())
    assert error(await gateway.turn_end(older)).code == "TURN_CANCELLED"
    seen = content(await talk.ended("", await talk.turn([{"history": True}])))
    assert msgspec.json.decode(seen) == [[1, "user", "told elsewhere"]]


async def test_turns_beyond_the_agents_room_are_declined(gateway: FakeGateway, tmp_path: Path) -> None:
    settings = AgentSettings(drain_ms=0, max_in_flight=1)
    agent = InProcessAgent(gateway, tmp_path, settings, engines=[ScriptedEngine()])
    await agent.start()
    try:
        talk = Talk(gateway)
        first = await running(gateway, talk, tmp_path)
        talk.seq += 2
        assert error(await gateway.turn_end(await talk.turn("second"))).code == "EXECUTOR_OVER_CAPACITY"
        await talk.cancel(first)
        await gateway.turn_end(first)
        talk.seq += 2
        assert content(await gateway.turn_end(await talk.turn("third"))) == "third"
    finally:
        await agent.stop()


async def test_unwanted_answer_leaves_the_sessions_copy(gateway: FakeGateway, talk: Talk) -> None:
    await talk.say("wanted")
    request = await talk.turn("unwanted")
    await gateway.turn_end(request)
    await talk.cancel(request)
    talk.seq += 2
    seen = msgspec.json.decode(content(await talk.say([{"history": True}])))
    assert [text for _, _, text in seen] == ["wanted", "wanted"]


async def test_memory_of_an_unwanted_answer_is_taken_back(gateway: FakeGateway, talk: Talk) -> None:
    await talk.say([{"remember": "MEMORY.md", "content": "wanted"}])
    script: list[dict[str, object]] = [
        {"remember": "MEMORY.md", "content": "unwanted"},
        {"remember": "memory/new.md", "content": "unwanted"},
    ]
    request = await talk.turn(script)
    await gateway.turn_end(request)
    await talk.cancel(request)
    talk.seq += 2
    assert content(await talk.say([{"recall": "MEMORY.md"}, {"recall": "memory/new.md"}])) == "wanted(nothing)"


# --- failing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ({"fail": "LLM_TIMEOUT"}, "LLM_TIMEOUT"),
        ({"raise": "quotes what it was given"}, "NODE_EXECUTION_FAILED"),
        ({"no such": 1}, "BAD_REQUEST"),
    ],
)
async def test_engines_failure_is_the_turns(
    gateway: FakeGateway, talk: Talk, step: dict[str, object], code: str
) -> None:
    end = error(await talk.say([step]))
    assert end.code == code
    assert "quotes" not in end.message


async def test_unknown_engine_and_bad_config_are_said(gateway: FakeGateway, agent: InProcessAgent) -> None:
    assert error(await Talk(gateway, engine="another.engine.v9").say("x")).code == "EXECUTOR_UNSUPPORTED_ENGINE"
    bad = Talk(gateway, limits={"timeoutMs": -1})
    assert error(await gateway.turn_end(await bad.open())).code == "BAD_REQUEST"


async def test_answer_is_cut_at_its_limit_and_one_beyond_a_frame_fails(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.max_frame_bytes = 2_000
    agent = InProcessAgent(gateway, tmp_path, engines=[ScriptedEngine()])
    await agent.start()
    try:
        short = Talk(gateway, limits={"maxOutputChars": 5})
        assert content(await short.say([{"say": "123456789"}])) == "12345"
        link = await gateway.link()
        assert [delta.content for delta in link.of(f.TurnDelta)] == ["12345"]
        long = Talk(gateway)
        remember = {"remember": "MEMORY.md", "content": "x"}
        end = await long.say([remember, {"say": "x" * 1_000}, {"pauseMs": 1}, {"say": "x" * 1_500}])
        assert error(end).code == "RESULT_TOO_LARGE"
        # As with every end that is no answer.
        assert content(await long.say([{"recall": "MEMORY.md"}])) == "(nothing)"
    finally:
        await agent.stop()


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P12")
async def test_inline_key_and_the_agents_own_secrets_are_seen_in_nothing_that_leaves_or_stays(
    gateway: FakeGateway, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key, own = "sk-inline-0123456789", "own-provider-secret"
    agent = InProcessAgent(
        gateway, tmp_path, engines=[ScriptedEngine()], environment={"OPENAI_API_KEY": own}, pool="managed"
    )
    await agent.start()
    talk = Talk(gateway, auth={"kind": "api_key", "apiKey": key})
    steps: list[dict[str, object]] = [
        {"say": key[:7]},
        {"tool": "t", "input": {"header": key}, "result": own},
        {"say": key[7:]},
        {"say": f" {own} {TOKEN}"},
        {"remember": "MEMORY.md", "content": f"the key is {key}"},
        {"payload": {"used": key}},
    ]
    final = await talk.say(steps)
    failed = await talk.say([{"fail": "LLM_TIMEOUT", "message": f"with {key}"}])
    await agent.stop()
    seen = b"".join(msgspec.json.encode(frame) for frame in (await gateway.link()).frames)
    assert content(final) == "*** *** ***"
    assert isinstance(final, f.TurnFinal)
    (remembered,) = msgspec.json.decode(final.payload, type=f.TurnPayload).memory  # type: ignore[arg-type]
    assert (remembered.content, remembered.sha256) == ("the key is ***", content_sha256("the key is ***"))
    assert error(failed).message == "with ***"
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("journal*"))
    logged = capfd.readouterr().out.encode()
    for secret in (key, own, TOKEN, key[:7]):
        assert secret.encode() not in seen + kept + logged


async def test_managed_agent_narrows_the_tools_to_memory_and_what_its_operator_allows(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    settings = AgentSettings(drain_ms=0, managed_tools=("connector.http.*",))
    agent = InProcessAgent(gateway, tmp_path, settings, engines=[ScriptedEngine()], pool="managed")
    await agent.start()
    try:
        talk = Talk(gateway, toolsAllow=["memory.search", "shell.run", "connector.http.get"])
        said = msgspec.json.decode(content(await talk.say([{"config": True}])))
        assert said["toolsAllow"] == ["memory.search", "connector.http.get"]
        assert said["idempotencyKey"] == f"{talk.session_id}:turn:1"
    finally:
        await agent.stop()


# --- memory ----------------------------------------------------------------------------------------------------------


def document(path: str, text: str | None, version: int = 1) -> f.MemoryDocument:
    return f.MemoryDocument(path=path, sha256="0" * 64, content=text, version=version)


async def test_memory_comes_with_the_open_and_what_a_turn_changed_goes_with_its_answer(
    gateway: FakeGateway, talk: Talk
) -> None:
    await talk.opened(await talk.open(memory=[document("MEMORY.md", "old", 4), document("memory/a.md", "a")]))
    script: list[dict[str, object]] = [
        {"recall": "MEMORY.md"},
        {"remember": "MEMORY.md", "content": "new"},
        {"remember": "memory/a.md", "content": None},
    ]
    end = await talk.ended("", await talk.turn(script))
    assert content(end) == "old"
    assert isinstance(end, f.TurnFinal)
    payload = msgspec.json.decode(msgspec.json.encode(decoded(end.payload)), type=f.TurnPayload)
    assert {(each.path, each.content) for each in payload.memory} == {("MEMORY.md", "new"), ("memory/a.md", None)}
    talk.generation = 2
    await talk.opened(await talk.open(memory=[document("memory/b.md", "b")]))
    assert content(await talk.ended("", await talk.turn([{"recall": "MEMORY.md"}, {"recall": "memory/b.md"}]))) == (
        "(nothing)b"
    )
    (await gateway.link()).cut()
    hello = (await gateway.link(2)).hello
    assert hello is not None
    assert hello.open_sessions is not None
    assert hello.open_sessions[0].memory_version == 1


async def test_open_does_not_wipe_what_a_turn_of_the_same_key_writes(
    gateway: FakeGateway, talk: Talk, tmp_path: Path
) -> None:
    go, mark = tmp_path / "go", tmp_path / "mark"
    await talk.opened(await talk.open())
    script: list[dict[str, object]] = [
        {"remember": "MEMORY.md", "content": "mine"},
        {"touch": str(mark)},
        {"until": str(go)},
        {"recall": "MEMORY.md"},
    ]
    request = await talk.turn(script)
    await appears(mark)
    other = Talk(gateway)
    await other.opened(await other.open(memory=[document("memory/b.md", "b")]))
    go.touch()
    assert content(await gateway.turn_end(request)) == "mine"


async def test_memory_beyond_a_frame_is_not_told(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.max_frame_bytes = 2_000
    agent = InProcessAgent(gateway, tmp_path, engines=[ScriptedEngine()])
    await agent.start()
    try:
        talk, link = Talk(gateway), await gateway.link()
        await talk.opened(await talk.open(memory=[document("MEMORY.md", "x" * 2_500)]))
        pull = f.MemorySync(
            request_id="pull",
            organization_id=ORGANIZATION_ID,
            session_id=talk.session_id,
            session_key=talk.session_key,
            provider="builtin",
            workspace_dir="/etc",
            direction="pull",
        )
        await link.send(pull)
        await gateway.until(lambda: bool(link.of(f.MemorySyncResult)))
        assert link.of(f.MemorySyncResult)[0].error == "RESULT_TOO_LARGE"
    finally:
        await agent.stop()


async def test_memory_is_synced_both_ways_and_searched(gateway: FakeGateway, agent: InProcessAgent) -> None:
    talk, link = Talk(gateway), await gateway.link()
    common = {
        "organization_id": ORGANIZATION_ID,
        "session_id": talk.session_id,
        "session_key": "../../etc",
        "provider": "builtin",
    }
    push = f.MemorySync(
        request_id="push",
        workspace_dir="/etc",
        direction="push",
        documents=(document("MEMORY.md", "the heron nests in May"),),
        **common,
    )
    await link.send(push)
    await gateway.until(lambda: bool(link.of(f.MemorySyncResult, "push")))
    assert link.of(f.MemorySyncResult, "push")[0].status == "ok"
    await link.send(f.MemorySync(request_id="pull", workspace_dir="/etc", direction="pull", **common))
    await link.send(f.MemoryQuery(request_id="query", query="heron", **common))
    bad = f.MemorySync(
        request_id="bad", workspace_dir="/etc", direction="push", documents=(document("../x.md", "x"),), **common
    )
    await link.send(bad)
    await gateway.until(lambda: len(link.of(f.MemorySyncResult)) == 3 and bool(link.of(f.MemoryQueryResult)))
    documents = decoded(link.of(f.MemorySyncResult, "pull")[0].details)["documents"]
    assert isinstance(documents, list)
    assert [each["content"] for each in documents] == ["the heron nests in May"]
    assert b"heron" in bytes(link.of(f.MemoryQueryResult)[0].results)  # type: ignore[arg-type]
    assert link.of(f.MemorySyncResult, "bad")[0].error == "BAD_REQUEST"


@pytest.mark.promise("P12")
async def test_secret_that_somebody_wrote_into_memory_leaves_masked(gateway: FakeGateway, tmp_path: Path) -> None:
    own, key = "own-provider-secret", "sk-inline-0123456789"
    agent = InProcessAgent(gateway, tmp_path, engines=[ScriptedEngine()], environment={"OPENAI_API_KEY": own})
    await agent.start()
    try:
        talk, link = Talk(gateway, auth={"kind": "api_key", "apiKey": key}), await gateway.link()
        await talk.say([{"remember": "MEMORY.md", "content": f"passwords: {own} {key}"}])
        common = {
            "organization_id": ORGANIZATION_ID,
            "session_id": talk.session_id,
            "session_key": talk.session_key,
            "provider": "builtin",
        }
        await link.send(f.MemorySync(request_id="pull", workspace_dir="/etc", direction="pull", **common))
        await link.send(f.MemoryQuery(request_id="query", query="passwords", **common))
        await gateway.until(lambda: bool(link.of(f.MemorySyncResult)) and bool(link.of(f.MemoryQueryResult)))
    finally:
        await agent.stop()
    (told,) = decoded(link.of(f.MemorySyncResult)[0].details)["documents"]  # type: ignore[misc]
    assert told["content"] == "passwords: *** ***"
    assert told["sha256"] == content_sha256("passwords: *** ***")
    (found,) = msgspec.json.decode(link.of(f.MemoryQueryResult)[0].results)  # type: ignore[arg-type]
    assert found["snippet"] == "passwords: *** ***"


# --- base gateways ---------------------------------------------------------------------------------------------------


async def test_base_gateway_is_served_without_v2_frames(tmp_path: Path) -> None:
    async with FakeGateway(v2=False) as gateway:
        agent = InProcessAgent(gateway, tmp_path, engines=[ScriptedEngine()])
        await agent.start()
        try:
            talk = Talk(gateway)
            end = await talk.say([{"say": "a"}, {"tool": "t"}, {"remember": "MEMORY.md", "content": "x"}])
            assert content(end) == "a"
            assert isinstance(end, f.TurnFinal)
            assert end.payload is msgspec.UNSET
            link = await gateway.link()
            assert link.of(f.TurnEvent) == []
            assert [delta.content for delta in link.of(f.TurnDelta)] == ["a"]
            stuck = await talk.turn([{"until": str(tmp_path / "never")}])
            await link.send(f.SessionCancel(request_id="x", organization_id="o", session_id=talk.session_id))
            assert error(await gateway.turn_end(stuck)).code == "TURN_CANCELLED"
        finally:
            await agent.stop()


async def test_session_opened_in_parts_has_all_of_them(gateway: FakeGateway, talk: Talk) -> None:
    entries = [f.HistoryEntry(seq=seq, role="user", content=str(seq)) for seq in range(1, 4)]
    talk.seq = 5
    for number, entry in enumerate(entries):
        request = await talk.open(history=[entry], more=number < 2 or None)
    await talk.opened(request)
    link = await gateway.link()
    assert len(link.of(f.SessionOpened)) == 1
    seen = msgspec.json.decode(content(await talk.ended("", await talk.turn([{"history": True}]))))
    assert [seq for seq, _, _ in seen] == [1, 2, 3]
