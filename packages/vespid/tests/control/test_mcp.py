"""The control plane over the Model Context Protocol: what the official client sees of it, and what it is refused."""

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import msgspec
import pytest
from mcp.shared.exceptions import MCPError
from tests.support.control import ORIGIN, Answer, Caller, Control, api_settings
from tests.support.mcp_client import assistant
from tests.support.run_steps import Stepping, published, start

from vespid.bus.channels import run_channel
from vespid.control import mcp_tools
from vespid.control.app import ControlPlane
from vespid.control.context import role_for
from vespid.control.mcp_fit import RESULT_MAX_CHARS
from vespid.control.stream import RunWatch
from vespid_protocol.ids import RunId

from .test_approvals import Scene, scene

__all__ = ["scene"]

WITHIN_S = 20.0
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])


@pytest.fixture
def stepping(superuser: "asyncpg.Connection") -> Stepping:
    return Stepping(superuser)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once somebody has read what there is and waits for more."""
    has_looked, wait = asyncio.Event(), RunWatch.wait

    async def noted(watch: RunWatch, limit_s: float) -> None:
        has_looked.set()
        await wait(watch, limit_s)

    monkeypatch.setattr(RunWatch, "wait", noted)
    return has_looked


async def key_of(owner: Caller, role: str = "member") -> tuple[str, str]:
    """A new API key, and its id."""
    made = await owner.post("/v1/orgs/{org}/api-keys", {"name": "assistant", "role": role})
    assert made.status == 201, made.body
    return made.body["value"], made.body["apiKey"]["id"]


@pytest.fixture
async def key(owner: Caller) -> str:
    return (await key_of(owner))[0]


async def posted(control: Control, message: object, key: str | None, **headers: str) -> Answer:
    """One POST by hand."""
    body = message if isinstance(message, bytes) else msgspec.json.encode(message)
    return await control.with_token(key or "").call(
        "POST", "/mcp", data=body, headers={**JSON, **({} if key else {"Authorization": ""}), **headers}
    )


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@ERAS
async def test_an_assistant_finds_a_workflow_and_starts_it(
    control: Control, owner: Caller, key: str, mode: str
) -> None:
    path = await published(owner)
    workflow_id = path.rpartition("/")[2]
    async with assistant(control.url, key, mode=mode) as me:
        tools = (await me.client.list_tools()).tools
        assert [tool.name for tool in tools] == list(mcp_tools.TOOLS)
        assert {tool.input_schema["type"] for tool in tools} == {"object"}
        assert [tool.name for tool in tools if tool.annotations and not tool.annotations.read_only_hint] == [
            "start_run",
            "cancel_run",
            "retry_run",
            "decide_approval",
        ]
        (found,) = (await me.call("list_workflows", status="published"))["workflows"]
        assert (found["id"], "dsl" in found) == (workflow_id, False)
        whole = await me.call("get_workflow", workflowId=workflow_id)
        assert whole["workflow"] == (await owner.get(path)).body["workflow"]
        run = (await me.call("start_run", workflowId=workflow_id, input={"go": True}))["run"]
        assert (run["status"], run["triggerType"], run["input"]) == ("queued", "api", {"go": True})
        assert await me.call("get_run", workflowId=workflow_id, runId=run["id"]) == {"run": run}
        assert (await me.call("list_runs", workflowId=workflow_id))["runs"] == [run]
        assert (await me.call("cancel_run", workflowId=workflow_id, runId=run["id"]))["run"]["id"] == run["id"]


async def test_the_text_of_an_answer_is_its_structure(control: Control, key: str) -> None:
    async with assistant(control.url, key) as me:
        result = await me.client.call_tool("list_workflows", {})
        assert msgspec.json.decode(result.content[0].text) == result.structured_content


async def test_a_key_makes_one_run_of_repeated_starts(control: Control, owner: Caller, key: str) -> None:
    path = await published(owner)
    once = {"workflowId": path.rpartition("/")[2], "idempotencyKey": "k"}
    async with assistant(control.url, key) as me:
        first, again = [await me.call("start_run", input={"b": 1, "a": 2}, **once) for _ in range(2)]
        assert first == again
        assert await me.refused("start_run", input={"b": 2}, **once) == (409, "CONFLICT")
    assert len((await owner.get(f"{path}/runs")).body["runs"]) == 1


async def test_a_run_that_failed_is_tried_again_once_for_a_key(
    control: Control, owner: Caller, key: str, stepping: Stepping
) -> None:
    run = await start(owner, await published(owner))
    names = {"workflowId": run["workflowId"], "runId": run["id"]}
    async with assistant(control.url, key) as me:
        assert await me.refused("retry_run", **names) == (409, "CONFLICT")
        await stepping.be_at(run["id"], "failed", '{"s": "failed", "a": 1}')
        first, again = [await me.call("retry_run", **names, idempotencyKey="k") for _ in range(2)]
        assert first == again
        assert (first["run"]["retryOf"]["runId"], first["run"]["status"]) == (run["id"], "queued")
        assert await me.refused("retry_run", **names, fromNodeId="nobody") == (400, "BAD_REQUEST")


async def test_it_waits_for_events_by_notice_and_goes_on_behind_them(
    control: Control,
    owner: Caller,
    key: str,
    stepping: Stepping,
    looks: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not by looking again: that would be after the test is over.
    monkeypatch.setattr(mcp_tools, "REREAD_S", 600.0)
    path = await published(owner)
    run = await start(owner, path)
    names = {"workflowId": run["workflowId"], "runId": run["id"]}
    fanout = control.plane.deps.fanout
    assert fanout is not None
    async with assistant(control.url, key) as me, asyncio.timeout(WITHIN_S):
        waiting = asyncio.create_task(me.call("read_run_events", **names, waitSeconds=30))
        await looks.wait()
        await stepping.append(run["id"], "run_started", "node_started")
        fanout.publish(run_channel(RunId(run["id"])), b"2")
        read = await waiting
        assert [event["eventType"] for event in read["events"]] == ["run_started", "node_started"]
        assert (read["nextAfterSeq"], read["isOver"]) == (2, False)
        await stepping.append(run["id"], "run_succeeded")
        await stepping.be_at(run["id"], "succeeded", '{"s": "succeeded", "a": 1}')
        read = await me.call("read_run_events", **names, afterSeq=2, waitSeconds=30)
        assert ([event["seq"] for event in read["events"]], read["isOver"]) == ([3], True)
        # There will be no more, so nothing is waited for.
        assert await me.call("read_run_events", **names, afterSeq=3, waitSeconds=30) == {
            "events": [],
            "nextAfterSeq": 3,
            "isOver": True,
        }


async def test_a_wait_ends_with_the_key_and_with_the_server(
    control: Control, owner: Caller, looks: asyncio.Event
) -> None:
    key, key_id = await key_of(owner)
    run = await start(owner, await published(owner))
    names = {"workflowId": run["workflowId"], "runId": run["id"], "waitSeconds": 30}
    async with assistant(control.url, key) as me, asyncio.timeout(WITHIN_S):
        waiting = asyncio.create_task(me.refused("read_run_events", **names))
        await looks.wait()
        assert (await owner.delete(f"/v1/orgs/{{org}}/api-keys/{key_id}")).status == 200
        assert await waiting == (401, "UNAUTHORIZED")
    async with assistant(control.url, (await key_of(owner))[0]) as me, asyncio.timeout(WITHIN_S):
        looks.clear()
        waiting = asyncio.create_task(me.call("read_run_events", **names))
        await looks.wait()
        control.plane.deps.stopping.set()
        assert (await waiting)["events"] == []


@pytest.mark.promise("P5")
async def test_what_is_anothers_is_not_there(control: Control, owner: Caller, stranger: Caller) -> None:
    run = await start(owner, await published(owner))
    names = {"workflowId": run["workflowId"], "runId": run["id"]}
    async with assistant(control.url, (await key_of(stranger, "owner"))[0]) as me:
        assert (await me.call("list_workflows"))["workflows"] == []
        assert (await me.call("list_agents"))["agents"] == []
        for tool, arguments in (
            ("get_workflow", {"workflowId": run["workflowId"]}),
            ("start_run", {"workflowId": run["workflowId"]}),
            ("list_runs", {"workflowId": run["workflowId"]}),
            ("get_run", names),
            ("cancel_run", names),
            ("retry_run", names),
            ("read_run_events", names | {"waitSeconds": 30}),
            ("get_node_output", names | {"nodeId": "n1"}),
            ("get_run", {"workflowId": str(uuid4()), "runId": "no id"}),
            ("get_approval", {"approvalId": str(uuid4())}),
            ("decide_approval", {"approvalId": str(uuid4()), "decision": "deny", "hash": "00" * 32}),
        ):
            assert await me.refused(tool, **arguments) == (404, "NOT_FOUND"), tool


async def test_a_tool_takes_the_role_that_its_route_takes(control: Control, owner: Caller) -> None:
    assert {tool.name for tool in mcp_tools.TOOLS.values() if role_for(tool.route) != "member"} == {"list_agents"}
    async with assistant(control.url, (await key_of(owner, "member"))[0]) as me:
        assert await me.refused("list_agents") == (403, "FORBIDDEN")
        assert (await me.call("list_workflows"))["workflows"] == []
    async with assistant(control.url, (await key_of(owner, "admin"))[0]) as me:
        assert (await me.call("list_agents"))["agents"] == []


async def test_what_waits_for_a_person_is_shown_and_decided_by_its_hash(
    control: Control, owner: Caller, scene: Scene
) -> None:
    asked = await scene.ask(by="admin")
    named = {"approvalId": asked["id"], "decision": "approve", "hash": asked["hash"]}
    async with assistant(control.url, (await key_of(owner, "member"))[0]) as me:
        (listed,) = (await me.call("list_approvals", status="pending", runId=scene.run["id"]))["approvals"]
        assert (listed["id"], listed["mayDecide"]) == (asked["id"], False)
        assert await me.refused("decide_approval", **named) == (403, "FORBIDDEN")
    async with assistant(control.url, (await key_of(owner, "admin"))[0]) as me:
        assert (await me.call("get_approval", approvalId=asked["id"]))["approval"]["what"] == asked["what"]
        assert await me.refused("decide_approval", **named | {"hash": "00" * 32}) == (409, "CONFLICT")
        decided = (await me.call("decide_approval", **named, comment="go"))["approval"]
        assert (decided["status"], decided["comment"]) == ("approved", "go")
        assert decided["decidedBy"]["apiKeyId"] is not None
        assert await me.refused("decide_approval", **named | {"decision": "deny"}) == (409, "CONFLICT")


@pytest.mark.parametrize(
    ("tool", "arguments", "field"),
    [
        ("get_workflow", {}, "workflowId"),
        ("get_workflow", {"workflowId": 7}, "workflowId"),
        ("list_workflows", {"limit": 0}, "limit"),
        ("list_workflows", {"limit": 51}, "limit"),
        ("list_workflows", {"cursor": "nonsense"}, "cursor"),
        ("list_workflows", {"state": "draft"}, "state"),
        ("read_run_events", {"workflowId": "w", "runId": "r", "waitSeconds": 31}, "waitSeconds"),
        ("start_run", {"workflowId": "w", "idempotencyKey": ""}, "idempotencyKey"),
    ],
)
async def test_a_bad_argument_is_named(
    control: Control, key: str, tool: str, arguments: dict[str, Any], field: str
) -> None:
    async with assistant(control.url, key) as me:
        result = await me.client.call_tool(tool, arguments)
    assert (result.is_error, result.structured_content["code"]) == (True, "BAD_REQUEST")
    assert list(result.structured_content["details"]["fieldErrors"]) == [field]


async def test_what_is_not_offered_is_an_error_of_the_protocol(control: Control, key: str) -> None:
    async with assistant(control.url, key) as me:
        with pytest.raises(MCPError, match="There is no tool 'drop_tables'"):
            await me.client.call_tool("drop_tables", {})
    unknown = await posted(control, request("planets/list"), key)
    assert unknown.body["error"]["code"] == -32601
    assert (await posted(control, request("ping"), key)).body["result"] == {}
    assert (await posted(control, b"{nonsense", key)).body["error"]["code"] == -32700
    assert (await posted(control, {"jsonrpc": "2.0", "method": "notifications/initialized"}, key)).status == 202


async def test_only_an_api_key_gets_in(control: Control, owner: Caller) -> None:
    key, key_id = await key_of(owner)
    ping = request("ping")
    assert (await posted(control, ping, key)).status == 200
    assert owner.token is not None
    for credential in (None, owner.token, key[:-1] + ("a" if key[-1] != "a" else "b"), "x.vak_y"):
        answer = await posted(control, ping, credential)
        assert (answer.status, answer.code, answer.headers["WWW-Authenticate"]) == (401, "UNAUTHORIZED", "Bearer")
        assert answer.headers["x-request-id"]
    assert (await owner.delete(f"/v1/orgs/{{org}}/api-keys/{key_id}")).status == 200
    assert (await posted(control, ping, key)).status == 401


async def test_whoever_tries_many_keys_is_slowed_and_a_good_key_is_not(
    owner: Caller, database_url: str, redis_url: str
) -> None:
    key, _ = await key_of(owner)
    plane = ControlPlane(api_settings(database_url, redis_url, rate_limit_failures=1))
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}") as http:
            control = Control(plane, http)
            # An address may fail five times as often as one person.
            statuses = [(await posted(control, request("ping"), f"{owner.org_id}.vak_{n}")).status for n in range(7)]
            assert (statuses[0], statuses[-1]) == (401, 429)
            assert (await posted(control, request("ping"), key)).status == 200
    finally:
        await plane.stop()


async def test_a_foreign_page_and_other_methods_are_refused(control: Control, key: str) -> None:
    ping = request("ping")
    foreign = await posted(control, ping, key, Origin="http://evil.test")
    assert (foreign.status, foreign.code) == (403, "FORBIDDEN")
    assert (await posted(control, ping, key, Origin=ORIGIN)).status == 200
    listening = await control.with_token(key).get("/mcp")
    assert (listening.status, listening.code, listening.headers["Allow"]) == (405, "METHOD_NOT_ALLOWED", "POST")


async def test_a_body_of_ten_megabytes_is_refused_and_the_next_request_is_answered(control: Control, key: str) -> None:
    big = request("tools/call", name="start_run", arguments={"workflowId": "w", "input": "x" * 10_000_000})
    answer = await posted(control, big, key)
    assert (answer.status, answer.code) == (413, "BODY_TOO_LARGE")
    assert (await posted(control, request("ping"), key)).status == 200


async def test_a_long_output_comes_in_pieces_that_make_the_whole(
    control: Control, owner: Caller, key: str, stepping: Stepping
) -> None:
    run = await start(owner, await published(owner))
    told = {"stdout": 'ä"\\' * 20_000}
    await stepping.block(run, "n1", ended_with=msgspec.json.encode(told).decode())
    await stepping.block(run, "n2", ended_with='{"ok": 1}')
    names = {"workflowId": run["workflowId"], "runId": run["id"]}
    pieces: list[str] = []
    async with assistant(control.url, key) as me:
        assert await me.call("get_node_output", **names, nodeId="n2") == {"output": {"ok": 1}}
        offset: int | None = 0
        while offset is not None:
            part = await me.call("get_node_output", **names, nodeId="n1", offset=offset)
            pieces.append(part["text"])
            offset = part["nextOffset"]
    assert len(pieces) == 6
    assert msgspec.json.decode("".join(pieces)) == told


async def test_an_answer_is_never_too_long_to_be_read_and_says_what_is_cut(
    control: Control, owner: Caller, key: str
) -> None:
    path = await published(owner)
    run = await start(owner, path, input="x" * 200_000)
    async with assistant(control.url, key) as me:
        shown = (await me.call("get_run", workflowId=run["workflowId"], runId=run["id"]))["run"]
        assert shown["id"] == run["id"]
        assert (shown["input"]["truncated"], shown["input"]["originalLength"]) == (True, 200_002)
        for _ in range(30):
            await start(owner, path, input="x" * 5_000)
        many = await me.client.call_tool("list_runs", {"workflowId": run["workflowId"], "limit": 30})
        assert len(many.content[0].text) <= RESULT_MAX_CHARS
        assert len(many.structured_content["runs"]) == 30
        assert many.structured_content["nextCursor"]
