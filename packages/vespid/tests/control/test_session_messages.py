"""What is said in a session over HTTP: committed once, told to who must know, stopped, reset."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from uuid import UUID, uuid4

import asyncpg
import pytest
import structlog
from tests.support.control import Caller, Control
from tests.support.organization import until

from vespid.bus import messages, session_news
from vespid.bus.channels import EDGES, TURN_QUEUE, session_channel, session_item
from vespid.bus.connection import Connection
from vespid.bus.fanout import RedisFanout
from vespid.bus.mail import RedisMail
from vespid.bus.messages import CancelTurn
from vespid.bus.session_news import Moved
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, SessionId, new_id, turn_request_id

S = "/v1/orgs/{org}/sessions"


async def begin(caller: Caller, **body: object) -> str:
    answer = await caller.post(S, {"scope": "per-peer", "peer": str(uuid4())} | body)
    assert answer.status == 201, answer.body
    return f"{S}/{answer.body['session']['id']}"


async def events(caller: Caller, path: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await caller.get(f"{path}/events")).body["events"]
    return found


async def test_a_message_is_committed_before_the_answer(owner: Caller) -> None:
    path = await begin(owner)
    attachments = [
        {"name": "notes.md", "mimeType": "text/markdown", "contentText": "# Notes", "metadata": {"pages": 1}},
        {"name": "x.png", "mimeType": "image/png", "contentUrl": "https://files.test/x.png"},
    ]
    answer = await owner.post(f"{path}/messages", {"message": "hi", "attachments": attachments})
    assert (answer.status, answer.body["accepted"]) == (202, True)
    event = answer.body["event"]
    assert (event["seq"], event["eventType"], event["level"], event["idempotencyKey"]) == (
        2,
        "user_message",
        "info",
        None,
    )
    assert event["payload"] == {"message": "hi", "attachments": attachments}
    assert (await events(owner, path))[1] == event


@pytest.mark.parametrize("where", ["body", "header", "both"])
async def test_the_same_key_is_one_message(owner: Caller, superuser: "asyncpg.Connection", where: str) -> None:
    path = await begin(owner)

    async def say(message: str, **more: object) -> tuple[int, dict[str, object]]:
        body: dict[str, object] = {"message": message} | more
        headers = {}
        if where in ("body", "both"):
            body["idempotencyKey"] = "k"
        if where in ("header", "both"):
            headers["Idempotency-Key"] = "k"
        answer = await owner.post(f"{path}/messages", body, headers=headers)
        return answer.status, answer.body

    first = await say("hi")
    assert first[0] == 202
    assert first == await say("hi")
    assert first == await say("hi", attachments=[])
    status, refused = await say("something else")
    assert (status, refused["code"]) == (409, "CONFLICT")
    status, refused = await say("hi", attachments=[{"name": "a", "mimeType": "b"}])
    assert (status, refused["code"]) == (409, "CONFLICT")
    assert await superuser.fetchval("select count(*) from session_turns") == 1


async def test_a_key_in_the_body_and_in_the_header_mean_the_same(owner: Caller) -> None:
    path = await begin(owner)
    by_body = await owner.post(f"{path}/messages", {"message": "hi", "idempotencyKey": "k"})
    by_header = await owner.post(f"{path}/messages", {"message": "hi"}, headers={"Idempotency-Key": "k"})
    assert (by_body.status, by_body.body) == (by_header.status, by_header.body)
    both = {"message": "hi", "idempotencyKey": "k"}
    differ = await owner.post(f"{path}/messages", both, headers={"Idempotency-Key": "other"})
    assert (differ.status, set(differ.body["details"]["fieldErrors"])) == (400, {"idempotencyKey"})


async def test_many_senders_get_a_place_each(owner: Caller) -> None:
    path = await begin(owner)
    answers = await asyncio.gather(*(owner.post(f"{path}/messages", {"message": f"m{n}"}) for n in range(20)))
    assert sorted(answer.body["event"]["seq"] for answer in answers) == list(range(2, 22))


async def test_a_busy_session_refuses_if_it_was_told_to(owner: Caller) -> None:
    path = await begin(owner, onMessageWhileBusy="reject")
    assert (await owner.post(f"{path}/messages", {"message": "one", "idempotencyKey": "k"})).status == 202
    busy = await owner.post(f"{path}/messages", {"message": "two"})
    assert (busy.status, busy.code) == (409, "SESSION_BUSY")
    repeated = await owner.post(f"{path}/messages", {"message": "one", "idempotencyKey": "k"})
    assert (repeated.status, repeated.body["event"]["seq"]) == (202, 2)
    assert len(await events(owner, path)) == 2


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"message"}),
        ({"message": ""}, {"message"}),
        ({"message": "x" * 50_001, "idempotencyKey": ""}, {"message", "idempotencyKey"}),
        ({"message": "x", "attachments": [{"name": "a", "mimeType": "b"}] * 33}, {"attachments"}),
        ({"message": "x", "attachments": [{"name": "a" * 201, "mimeType": "b"}]}, {"attachments[0].name"}),
        ({"message": "x", "attachments": [{"name": "a", "mimeType": "b" * 121}]}, {"attachments[0].mimeType"}),
        (
            {"message": "x", "attachments": [{"name": "a", "mimeType": "b", "contentText": "c" * 100_001}]},
            {"attachments[0].contentText"},
        ),
    ],
)
async def test_fields_at_fault_are_named(owner: Caller, body: dict[str, object], fields: set[str]) -> None:
    path = await begin(owner)
    answer = await owner.post(f"{path}/messages", body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert set(answer.body["details"]["fieldErrors"]) == fields


@pytest.mark.parametrize("letter", ["é", "漢", "\U0001f600"])
async def test_a_message_is_measured_in_characters(owner: Caller, letter: str) -> None:
    path = await begin(owner)
    most = await owner.post(f"{path}/messages", {"message": letter * 50_000})
    assert (most.status, most.body["event"]["payload"]["message"]) == (202, letter * 50_000)
    more = await owner.post(f"{path}/messages", {"message": letter * 50_001})
    assert (more.status, set(more.body["details"]["fieldErrors"])) == (400, {"message"})


async def test_only_a_message_may_be_larger_than_a_megabyte(owner: Caller) -> None:
    path = await begin(owner)
    text = {"name": "a", "mimeType": "text/plain", "contentText": "x" * 100_000}
    large = await owner.post(f"{path}/messages", {"message": "x" * 50_000, "attachments": [text] * 32})
    assert large.status == 202
    too_large = await owner.post(f"{path}/messages", data=b'{"message":"' + b"x" * 4 * 1024 * 1024 + b'"}')
    assert (too_large.status, too_large.code) == (413, "BODY_TOO_LARGE")
    elsewhere = await owner.post(f"{path}/reset", data=b'{"mode":"' + b"x" * 1024 * 1024 + b'"}')
    assert (elsewhere.status, elsewhere.code) == (413, "BODY_TOO_LARGE")


async def test_cancel_ends_the_message_that_waits(owner: Caller) -> None:
    path = await begin(owner)
    await owner.post(f"{path}/messages", {"message": "hi"})
    answer = await owner.post(f"{path}/cancel")
    assert (answer.status, answer.body["ok"]) == (200, True)
    assert answer.body["session"] == (await owner.get(path)).body["session"]
    last = (await events(owner, path))[-1]
    assert (last["eventType"], last["level"]) == ("error", "error")
    assert isinstance(last["payload"], dict)
    assert last["payload"]["code"] == "TURN_CANCELLED"
    again = await owner.post(f"{path}/cancel")
    assert (again.status, len(await events(owner, path))) == (200, 3)


@pytest.mark.parametrize(("body", "mode"), [(None, "keep_history"), ({"mode": "clear_history"}, "clear_history")])
async def test_reset_ends_what_waits_and_says_how(
    owner: Caller, superuser: "asyncpg.Connection", body: dict[str, str] | None, mode: str
) -> None:
    path = await begin(owner)
    await owner.post(f"{path}/messages", {"message": "hi"})
    answer = await owner.post(f"{path}/reset", body)
    assert (answer.status, answer.body["ok"]) == (200, True)
    told = await events(owner, path)
    assert [event["eventType"] for event in told[1:]] == ["user_message", "error", "system"]
    assert told[-1]["payload"] == {"action": "session_reset", "mode": mode}
    forgotten = await superuser.fetchval("select history_from from sessions where id = $1", UUID(path.split("/")[-1]))
    assert (forgotten > 0) is (mode == "clear_history")


async def test_who_reset_a_session_is_told_in_the_audit_log(control: Control, owner: Caller, stranger: Caller) -> None:
    path = await begin(owner)
    member = await control.join(owner)
    assert (await stranger.post(f"{path}/reset")).status == 404
    assert (await member.post(f"{path}/reset", {"mode": "clear_history"}, headers={"User-Agent": "x/1"})).status == 200
    for who, entries in ((owner, 1), (stranger, 0)):
        log = (await who.get("/v1/orgs/{org}/audit-log")).body["entries"]
        resets = [entry for entry in log if entry["action"] == "session.reset"]
        assert len(resets) == entries
        for entry in resets:
            assert entry["actor"] == {"userId": member.user_id, "apiKeyId": None}
            assert (entry["objectType"], entry["objectId"]) == ("session", path.split("/")[-1])
            assert entry["details"] == {"mode": "clear_history"}
            assert (entry["ip"], entry["userAgent"]) == ("127.0.0.1", "x/1")


async def test_reset_knows_two_modes(owner: Caller) -> None:
    path = await begin(owner)
    answer = await owner.post(f"{path}/reset", {"mode": "all"})
    assert (answer.status, set(answer.body["details"]["fieldErrors"])) == (400, {"mode"})


class Heard:
    """What other processes are told."""

    def __init__(self) -> None:
        self.news: list[session_news.SessionNews] = []
        self.orders: list[object] = []

    def hear_news(self, data: bytes | None) -> None:
        if data is not None:
            self.news.append(session_news.decode(data))

    def hear_orders(self, data: bytes | None) -> None:
        if data is not None:
            self.orders.append(messages.decode(data))


async def test_who_must_know_is_told(owner: Caller, redis_url: str, superuser: "asyncpg.Connection") -> None:
    log = structlog.get_logger("test")
    connection = Connection(redis_url, name="test", log=log)
    fanout = RedisFanout(connection, redis_url, log=log)
    mail = RedisMail(connection, redis_url, ProcessId(new_id()), log=log)
    for service in (connection, mail, fanout):
        await service.start()
    heard = Heard()
    try:
        path = await begin(owner, onMessageWhileBusy="interrupt")
        session_id = path.split("/")[-1]
        await fanout.subscribe(session_channel(session_id), heard.hear_news)
        await fanout.subscribe(EDGES, heard.hear_orders)
        async with aclosing(mail.wakes(TURN_QUEUE)) as wakes, asyncio.timeout(10):
            await owner.post(f"{path}/messages", {"message": "one"})
            assert list(await anext(wakes)) == [session_item(str(owner.org_id), session_id)]
        await until(has(heard.news, Moved(2)), "the message is told", 10.0)
        executor = ExecutorId(str(uuid4()))
        await superuser.execute(
            "update session_turns set state = 'running', turn_epoch = 1, executor_id = $2, pool = 'byon' "
            "where session_id = $1",
            UUID(session_id),
            UUID(executor),
        )
        await owner.post(f"{path}/messages", {"message": "two"})
        order = CancelTurn(turn_request_id(session_id, 2, 1), SessionId(session_id), OrgId(str(owner.org_id)), executor)
        await until(has(heard.orders, order), "the host is told to stop", 10.0)
        await until(has(heard.news, Moved(3)), "the message behind it is told", 10.0)
        await owner.post(f"{path}/reset")
        await until(lambda: len(heard.news) == 3, "the reset is told", 10.0)
    finally:
        for service in (fanout, mail, connection):
            await service.stop()


def has(heard: Sequence[object], wanted: object) -> Callable[[], bool]:
    return lambda: wanted in heard


async def test_a_message_that_cannot_be_put_down_is_not_accepted(control: Control, owner: Caller) -> None:
    path = await begin(owner)
    sender = control.plane.deps.conversation._sender
    await sender.stop()
    answer = await owner.post(f"{path}/messages", {"message": "hi"})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    await sender.start()
    assert (await owner.post(f"{path}/messages", {"message": "hi"})).status == 202
