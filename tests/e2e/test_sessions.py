"""The runbook's "Verifying Interactive Session v2", and what else people see of sessions, with real processes."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from tests.support.chat import ECHO, Chat, new_member, script
from tests.support.installed import QUICK
from tests.support.organization import Organization, until
from tests.support.processes import SCRIPTED_AGENT, Processes, RunningProcess
from tests.support.soon import SOON_S, came_soon
from tests.support.stage import Stage


@pytest_asyncio.fixture
async def people(processes: Processes) -> AsyncIterator[Organization]:
    """An organization in an installation that soon finds out who is dead."""
    processes.env |= QUICK
    for command in ("api", "gateway", "worker"):
        await processes.start(command)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield await Organization.sign_up(processes, http)


async def own_host(people: Organization, name: str = "own") -> tuple[RunningProcess, str]:
    """An agent of the organization's own that has the scripted engine."""
    return await people.pair(name, program=SCRIPTED_AGENT)


async def gone(people: Organization, executor_id: str) -> None:
    """Wait until the executor, of either pool, is known to be offline."""

    async def offline() -> bool:
        agents = await people.agents()
        managed = (await people.service("GET", "/internal/v1/managed-executors", status=200)).body["executors"]
        return all(each["status"] == "offline" for each in (*agents, *managed) if each["id"] == executor_id)

    await until(offline, f"executor {executor_id} is offline")


# --- the runbook ------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P8")
async def test_the_runbook_from_its_first_step_to_its_last(people: Organization) -> None:
    # 1. A gateway, a BYON agent, and a managed one.
    own, own_id = await people.pair("own")
    managed = await people.issue_managed()
    lent = await managed.start()

    # 2. A session.
    chat = await Chat.begin(
        people,
        scope="per-channel-peer",
        channel="web",
        executionMode="pinned-node-host",
        engineId=ECHO,
    )
    assert chat.key == f"agent:main:org:{people.id}:scope:per-channel-peer:channel:web:peer:ann"

    # 3. and 4. A turn, and what a joined client is told of it.
    client = await chat.joined()
    seq = await chat.say("Hello there")
    final = await client.next("agent_final")
    story = client.story()
    deltas = [word for word in story if word.startswith("+")]
    assert deltas
    assert "".join(word[1:] for word in deltas) == final["content"] == await chat.told(seq)
    expected = ["joined", "state", "1:session_created", f"ack:{seq}", f"{seq}:user_message", "state"]
    assert story == [*expected, *deltas, f"{seq + 1}:agent_final", "agent_final"]
    pin = client.of("session_state")[-1]
    assert (pin["pinnedExecutorId"], pin["pinnedExecutorPool"]) == (own_id, "byon")

    # The same over the socket.
    await client.send("session_send", chat.id, message="And again", idempotencyKey="k")
    assert (await client.next("agent_final", 2))["content"] == await chat.told(seq + 2)
    assert client.story()[len(story) :][:2] == [f"ack:{seq + 2}", f"{seq + 2}:user_message"]

    # 5. The host goes, and the next turn is answered by the managed one.
    await own.kill()
    told = len(client.heard)
    third = await chat.say("Are you still there?")
    await client.next("agent_final", 3)
    assert "still there" in await chat.told(third)
    event = await chat.has("session_executor_failover")
    where = {name: event["payload"][name] for name in ("from", "to")}
    assert where == {
        "from": {"executorId": own_id, "pool": "byon"},
        "to": {"executorId": managed.id, "pool": "managed"},
    }
    assert (event["eventType"], event["level"]) == ("system", "warn")
    broadcast = next(f for f in client.heard[told:] if f["type"] == "session_event_v2" and f["seq"] == event["seq"])
    assert broadcast["payload"] == event["payload"]
    assert (await chat.session())["pinnedExecutorPool"] == "managed"

    # 6. Both pools are empty.
    await lent.kill()
    await gone(people, managed.id)
    began = time.monotonic()
    fourth = await chat.say("Anybody?")
    assert await chat.error(fourth, SOON_S) == "NO_AGENT_AVAILABLE"
    came_soon("nobody there, told", began)
    assert (await client.next("session_error"))["code"] == "NO_AGENT_AVAILABLE"

    # A host appears, and it goes on.
    await managed.start()
    fifth = await chat.say("Welcome back")
    assert "Welcome back" in await chat.told(fifth)
    await client.next("agent_final", 4)
    events = await chat.events()
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1)) == client.seqs()


# --- the loss of hosts ------------------------------------------------------------------------------------------------


@pytest.mark.promise("P8")
async def test_a_host_killed_in_mid_turn_is_followed_by_one_that_has_everything(
    people: Organization, tmp_path: Path
) -> None:
    own, own_id = await own_host(people)
    managed = await people.issue_managed()
    await managed.start(program=SCRIPTED_AGENT)
    chat = await Chat.begin(people)
    client = await chat.joined()
    before, stage = Stage(tmp_path, "before"), Stage(tmp_path)
    said = script(*before.steps(), {"say": "one"}, {"remember": "memory/notes.md", "content": "the cat is grey"})
    await chat.say(said)
    await before.begun()
    # While the first is answered: its answer comes behind this message.
    seq = await chat.do(
        {"say": "lost words "},
        {"tool": "search", "input": {"q": 1}, "result": {"found": 2}},
        *stage.steps(),
        {"history": True},
        {"say": " | "},
        {"prior": True},
        {"say": " | "},
        {"recall": "memory/notes.md"},
    )
    before.go_on()
    await stage.begun()
    await chat.has("tool_result")
    await own.kill()
    tries = await stage.begun(2)
    stage.go_on()
    answer = (await chat.told(seq)).split(" | ")
    assert tries == [f"{chat.id}:turn:{seq}:{epoch}" for epoch in (1, 2)]
    assert json.loads(answer[0].removeprefix("lost words ")) == [[2, "user", said], [2, "assistant", "one"]]
    prior = json.loads(answer[1])
    assert [kind for kind, _ in prior] == ["tool_call", "tool_result"]
    assert answer[2] == "the cat is grey"

    await client.next("agent_final", 2)
    kinds = await chat.kinds()
    assert kinds.count("session_executor_failover") == 1
    assert kinds.count("agent_final") == 2
    story = client.story()
    again = story.index(next(word for word in story if word.endswith(":session_executor_failover")))
    anew = "".join(word[1:] for word in story[again:] if word.startswith("+"))
    assert anew == await chat.told(seq)
    assert own_id != (await chat.session())["pinnedExecutorId"] == managed.id


@pytest.mark.promise("P8")
async def test_with_every_host_lost_in_mid_turn_the_turn_ends_and_the_session_works_again_later(
    people: Organization, tmp_path: Path
) -> None:
    own, _ = await own_host(people)
    chat = await Chat.begin(people)
    stage = Stage(tmp_path)
    seq = await chat.do(*stage.steps(), {"say": "never"})
    await stage.begun()
    await own.kill()
    # It is given a moment to come back, as nobody else is there.
    assert await chat.error(seq) == "NO_AGENT_AVAILABLE"
    await people.restart_agent("own", program=SCRIPTED_AGENT)

    async def answered() -> bool:
        return (await chat.answer(await chat.do({"say": "here"})))["eventType"] == "agent_final"

    await until(answered, "the session works again")
    assert stage.tries() == [f"{chat.id}:turn:{seq}:1"]


@pytest.mark.promise("P8")
async def test_a_host_that_comes_back_soon_is_given_its_turn_again(people: Organization, tmp_path: Path) -> None:
    own, own_id = await own_host(people)
    chat = await Chat.begin(people)
    stage = Stage(tmp_path)
    seq = await chat.do(*stage.steps(), {"say": "done"})
    await stage.begun()
    stage.go_on()
    await own.kill()
    await people.restart_agent("own", program=SCRIPTED_AGENT)
    answer = await chat.answer(seq)
    # Whether the answer was committed before the kill is chance; there is one, and it is this.
    assert answer["payload"]["message"] == "done"
    assert (await chat.kinds()).count("agent_final") == 1
    assert (await chat.session())["pinnedExecutorId"] == own_id


async def test_a_session_for_one_host_only_fails_without_it_and_works_with_it(people: Organization) -> None:
    own, own_id = await own_host(people)
    await own_host(people, "other")
    chat = await Chat.begin(people, executorSelector={"executorId": own_id})
    assert await chat.ask({"say": "here"}) == "here"
    await own.kill()
    await gone(people, own_id)
    assert await chat.error(await chat.do({"say": "there?"}), SOON_S) == "PINNED_AGENT_OFFLINE"
    await people.restart_agent("own", program=SCRIPTED_AGENT)

    async def online() -> bool:
        return (await people.agent(own_id))["status"] == "online"

    await until(online, "it is back")
    assert await chat.ask({"say": "back"}) == "back"
    assert "session_executor_failover" not in await chat.kinds()


@pytest.mark.parametrize(("policy", "pool"), [("home", "byon"), ("sticky", "managed")])
async def test_a_session_goes_home_or_stays_as_its_policy_says(people: Organization, policy: str, pool: str) -> None:
    managed = await people.issue_managed()
    await managed.start(program=SCRIPTED_AGENT)
    chat = await Chat.begin(people, pinPolicy=policy)
    assert await chat.ask({"say": "away"}) == "away"
    assert (await chat.session())["pinnedExecutorPool"] == "managed"
    await own_host(people)
    history = await chat.ask_json("history")
    assert [entry[2] for entry in history if entry[1] == "assistant"] == ["away"]
    assert (await chat.session())["pinnedExecutorPool"] == pool


# --- what people do ---------------------------------------------------------------------------------------------------


async def test_a_repeated_message_runs_no_second_turn_wherever_it_is_said(people: Organization) -> None:
    await own_host(people)
    chat = await Chat.begin(people)
    client = await chat.joined()
    seq = await chat.do({"say": "once"}, idempotencyKey="k")
    message = script({"say": "once"})
    assert await chat.told(seq) == "once"
    assert await chat.say(message, idempotencyKey="k") == seq
    with_header = {"Idempotency-Key": "k", **people.headers}
    answer = await people.call("POST", f"{chat.path}/messages", {"message": message}, headers=with_header, status=202)
    assert answer.body["event"]["seq"] == seq
    acks = client.count("session_ack")
    await client.send("session_send", chat.id, message=message, idempotencyKey="k")
    await client.until(lambda: client.count("session_ack") > acks, "it is acknowledged")
    assert client.of("session_ack")[-1]["userEventSeq"] == seq
    refused = await chat.post("other", idempotencyKey="k")
    assert (refused.status, refused.body["code"]) == (409, "CONFLICT")
    assert await chat.ask({"say": "twice"}) == "twice"
    assert (await chat.kinds()).count("user_message") == 2


async def test_a_cancelled_turn_is_over_and_a_reset_forgets_what_it_is_told_to(
    people: Organization, tmp_path: Path
) -> None:
    await own_host(people)
    chat = await Chat.begin(people)
    assert await chat.ask({"say": "kept"}, {"remember": "MEMORY.md", "content": "kept too"}) == "kept"

    stage = Stage(tmp_path)
    running = await chat.do(*stage.steps())
    await stage.begun()
    waiting = await chat.do({"say": "after it"})
    await chat.cancel()
    assert await chat.error(running) == "TURN_CANCELLED"
    assert await chat.told(waiting) == "after it"

    def answers_in(history: list[list[object]]) -> list[object]:
        return [content for _, role, content in history if role == "assistant"]

    assert answers_in(await chat.ask_json("history")) == ["kept", "after it"]
    running, waiting = [await chat.do({"pauseMs": 60_000}) for _ in range(2)]
    await chat.reset("keep_history")
    assert [await chat.error(seq) for seq in (running, waiting)] == ["TURN_CANCELLED"] * 2
    assert answers_in(await chat.ask_json("history"))[:2] == ["kept", "after it"]
    client = await chat.joined(0)
    await client.send("session_reset_agent", chat.id, mode="clear_history")
    await client.until(lambda: sum("session_reset" in word for word in client.story()) == 2, "it is reset")
    assert await chat.ask_json("history") == []
    assert await chat.ask({"recall": "MEMORY.md"}) == "kept too"


@pytest.mark.parametrize("busy", ["queue", "reject", "interrupt"])
async def test_a_message_while_a_turn_runs_does_what_the_session_says(
    people: Organization, tmp_path: Path, busy: str
) -> None:
    await own_host(people)
    chat = await Chat.begin(people, onMessageWhileBusy=busy)
    client = await chat.joined()
    stage = Stage(tmp_path)
    first = await chat.do(*stage.steps(), {"say": "first"})
    await stage.begun()
    if busy == "reject":
        refused = await chat.post("second")
        assert (refused.status, refused.body["code"]) == (409, "SESSION_BUSY")
        await client.send("session_send", chat.id, message="second")
        assert (await client.next("session_error"))["code"] == "SESSION_BUSY"
        stage.go_on()
        assert await chat.told(first) == "first"
        assert await chat.ask({"say": "second"}) == "second"
        return
    second = await chat.do({"say": "second"})
    if busy == "interrupt":
        assert await chat.error(first) == "TURN_CANCELLED"
    stage.go_on()
    assert await chat.told(second) == "second"
    if busy == "queue":
        assert await chat.told(first) == "first"
        finals = [e["payload"]["message"] for e in await chat.events() if e["eventType"] == "agent_final"]
        assert finals == ["first", "second"]


async def test_what_a_turn_remembered_is_found_over_http_and_what_changed_on_the_host_is_fetched(
    people: Organization,
) -> None:
    await own_host(people)
    chat = await Chat.begin(people)
    await chat.ask({"remember": "memory/pets.md", "content": "# Pets\n\nDie Katze heißt Minka.\n"}, {"say": "noted"})
    found = await people.call(
        "GET", f"/v1/orgs/{{org}}/memory/search?q=Minka&sessionKey={chat.key}&limit=5", status=200
    )
    (passage,) = found.body["results"]
    assert passage["path"] == "memory/pets.md"
    doc = await people.call("GET", f"/v1/orgs/{{org}}/memory/docs/{passage['docId']}", status=200)
    assert "Minka" in doc.body["doc"]["content"]

    (file,) = people.processes.folder.glob("own-home/**/memory/pets.md")
    file.write_text("# Pets\n\nDer Hund heißt Rex.\n")
    synced = await people.call("POST", "/v1/orgs/{org}/memory/sync", {"sessionId": chat.id}, status=200)
    assert [(each["path"], each["deleted"]) for each in synced.body["changed"]] == [("memory/pets.md", False)]
    found = await people.call("GET", f"/v1/orgs/{{org}}/memory/search?q=Rex&sessionKey={chat.key}", status=200)
    assert [each["path"] for each in found.body["results"]] == ["memory/pets.md"]
    assert await chat.ask({"recall": "memory/pets.md"}) == "# Pets\n\nDer Hund heißt Rex.\n"


# --- who is sent away -------------------------------------------------------------------------------------------------


@pytest.mark.promise("P6")
async def test_a_host_revoked_in_mid_turn_is_cut_off_and_its_answer_counts_nothing(
    people: Organization, tmp_path: Path
) -> None:
    own, own_id = await own_host(people)
    managed = await people.issue_managed()
    await managed.start(program=SCRIPTED_AGENT)
    chat = await Chat.begin(people)
    stage = Stage(tmp_path)
    seq = await chat.do(*stage.steps(), {"say": "by whom?"})
    await stage.begun()
    began = time.monotonic()
    await people.call("POST", f"/v1/orgs/{{org}}/agents/{own_id}/revoke", status=200)
    await stage.begun(2)
    came_soon("revoked host replaced in mid-turn", began)
    stage.go_on()
    assert await own.wait() != 0
    assert await chat.told(seq) == "by whom?"
    assert stage.tries()[1].endswith(":2")
    event = await chat.has("session_executor_failover")
    assert event["payload"]["to"] == {"executorId": managed.id, "pool": "managed"}


@pytest.mark.promise("P6")
async def test_a_removed_member_hears_no_more_of_a_turn_that_runs(people: Organization, tmp_path: Path) -> None:
    await own_host(people)
    chat = await Chat.begin(people)
    member, user_id = await new_member(people, people.http)
    theirs, ours = await Chat(member, await chat.session()).joined(), await chat.joined()
    stage = Stage(tmp_path)
    seq = await chat.do({"say": "for both"}, *stage.steps(), {"say": "for one"})
    await theirs.next("agent_delta")
    await stage.begun()
    began = time.monotonic()
    await people.call("DELETE", f"/v1/orgs/{{org}}/members/{user_id}", status=200)
    assert await theirs.closed() == 4403
    came_soon("removed member cut off", began)
    stage.go_on()
    await ours.next("agent_final")
    assert await chat.told(seq) == "for bothfor one"
    assert theirs.count("agent_final") == 0
