"""Our tools as an MCP server, spoken to request by request."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from vespid_agent.engines import bridge as bridges
from vespid_agent.engines.bridge import Bridge
from vespid_agent.engines.calls import Calls
from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineError, TurnRequest
from vespid_runtime.engines.loop import task_of
from vespid_runtime.tools.approval import ApprovalRule, Approvals
from vespid_runtime.tools.event import ToolEvent

from .conftest import Bench, Heard, Notes, Shell, Stuck


class Spoken:
    """One turn's server, and a client of it."""

    def __init__(self, request: TurnRequest, heard: Heard, http: aiohttp.ClientSession) -> None:
        self.over: list[EngineError] = []
        self.bridge = Bridge(Calls(task_of(request), request, heard, self.over.append))
        self._http = http

    async def post(self, body: object, token: str | None = None) -> aiohttp.ClientResponse:
        headers = {"Authorization": f"Bearer {self.bridge.token if token is None else token}"}
        data = body if isinstance(body, str) else json.dumps(body)
        return await self._http.post(self.bridge.url, data=data, headers=headers)

    async def ask(self, method: str, at: int = 1, **params: object) -> Any:
        async with await self.post({"jsonrpc": "2.0", "id": at, "method": method, "params": params}) as response:
            assert response.status == 200
            text = await response.text()
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        said = json.loads(lines[-1] if lines else text)
        assert said["id"] == at
        return said.get("result") or said["error"]

    async def call(self, name: str, arguments: object = None, at: int = 1) -> tuple[bool, str]:
        result = await self.ask("tools/call", at, name=name, arguments={} if arguments is None else arguments)
        return result["isError"], result["content"][0]["text"]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_it_greets_and_lists_what_is_allowed(bench: Bench, heard: Heard, http: aiohttp.ClientSession) -> None:
    request = bench.request(tools=[Notes(), Shell()], allow=["memory.*"])
    spoken = Spoken(request, heard, http)
    async with spoken.bridge:
        greeted = await spoken.ask("initialize", protocolVersion="2025-06-18")
        assert greeted["protocolVersion"] == "2025-06-18"
        assert (await spoken.ask("initialize", protocolVersion="1999-01-01"))["protocolVersion"] == "2025-11-25"
        assert (await spoken.post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status == 202
        (tool,) = (await spoken.ask("tools/list"))["tools"]
        assert (tool["name"], tool["description"]) == ("memory_search", "Finds notes")
        assert tool["inputSchema"] == Notes.input_schema
        assert (await spoken.ask("resources/list"))["code"] == -32601


async def test_nobody_without_the_token_of_the_turn_is_answered(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession
) -> None:
    notes = Notes()
    spoken = Spoken(bench.request(tools=[notes]), heard, http)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "memory_search"}}
    async with spoken.bridge:
        for token in ("", "x", spoken.bridge.token + "x", spoken.bridge.token[:-1], "\u00e4"):
            assert (await spoken.post(call, token)).status == 401
        assert (await spoken.post("{", None)).status == 400
        assert (await spoken.post("[]", None)).status == 400
        url = spoken.bridge.url
    assert notes.calls == []
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post(url)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("shell_run", {"script": "id"}, "TOOL_NOT_ALLOWED:shell.run"),
        ("shell.run", {"script": "id"}, "TOOL_NOT_ALLOWED:shell.run"),
        ("memory_write", {}, "UNKNOWN_TOOL"),
        ("memory_search", {"query": 1}, "INVALID_TOOL_ARGUMENTS"),
        ("memory_search", [], "INVALID_TOOL_ARGUMENTS"),
        ("memory_search", {"query": "x" * 300_000}, "INVALID_TOOL_ARGUMENTS"),
    ],
)
async def test_what_cannot_be_called_is_refused_and_told(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession, name: str, arguments: object, told: str
) -> None:
    notes, shell = Notes(), Shell()
    spoken = Spoken(bench.request(tools=[notes, shell], allow=["memory.search"]), heard, http)
    async with spoken.bridge:
        is_error, text = await spoken.call(name, arguments)
    assert is_error
    assert text.startswith(told)
    assert (notes.calls, shell.calls) == ([], [])
    (result,) = heard.told("tool_result")
    assert result["refused"]


async def test_a_tool_that_needs_a_person_is_refused(bench: Bench, heard: Heard, http: aiohttp.ClientSession) -> None:
    notes = Notes()
    approvals = Approvals({"memory.*": ApprovalRule()})
    spoken = Spoken(bench.request(tools=[notes], approvals=approvals), heard, http)
    async with spoken.bridge:
        is_error, text = await spoken.call("memory_search", {"query": "x"})
    assert is_error
    assert text.startswith("APPROVAL_REQUIRED")
    assert notes.calls == []


async def test_a_call_that_an_earlier_try_had_answered_is_not_made_again(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession
) -> None:
    first = Heard()
    spoken = Spoken(bench.request(tools=[Notes("of the first try")]), first, http)
    async with spoken.bridge:
        await spoken.call("memory_search", {"query": "x"})
    prior = tuple(ToolEvent(kind=kind, payload=payload) for kind, _, _, payload in first.events)
    notes = Notes("of the second try")
    spoken = Spoken(bench.request(tools=[notes], prior=prior), heard, http)
    async with spoken.bridge:
        assert await spoken.call("memory_search", {"query": "x"}) == (False, "of the first try")
        assert notes.calls == []
        # Another place: made, under its own key.
        assert await spoken.call("memory_search", {"query": "x"}) == (False, "of the second try")
    assert [use.key for _, use in notes.calls] == ["run1:node1:tool:1"]


async def test_calls_at_once_have_places_and_ids_of_their_own(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession
) -> None:
    notes = Notes()
    spoken = Spoken(bench.request(tools=[notes]), heard, http)
    async with spoken.bridge:
        await asyncio.gather(*(spoken.call("memory_search", {"query": "x"}, at % 2) for at in range(6)))
    assert sorted(use.n for _, use in notes.calls) == list(range(6))
    assert len({event["callId"] for event in heard.told("tool_call")}) == 6


async def test_beyond_the_limit_nothing_is_called_and_the_turn_is_over(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession
) -> None:
    notes = Notes()
    spoken = Spoken(bench.request(tools=[notes], limits={"max_tool_calls": 2}), heard, http)
    async with spoken.bridge:
        for _ in range(2):
            assert not (await spoken.call("memory_search", {"query": "x"}))[0]
        assert spoken.over == []
        assert (await spoken.call("memory_search", {"query": "x"}))[0]
    assert len(notes.calls) == 2
    assert [reason.code for reason in spoken.over] == [Code.AGENT_MAX_TOOL_CALLS]


async def test_a_long_answer_is_cut_and_a_secret_masked(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession
) -> None:
    notes = Notes("CANARY-SECRET" + "x" * 10_000_000)
    notes.secrets = ("CANARY-SECRET",)
    spoken = Spoken(bench.request(tools=[notes]), heard, http)
    async with spoken.bridge:
        _, text = await spoken.call("memory_search", {"query": "x"})
    assert len(text) <= 16_000
    assert "CANARY" not in text
    assert "CANARY" not in json.dumps(heard.events)


async def test_a_slow_tool_is_heard_of_and_a_cancelled_call_ends(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridges, "_STILL_AT_IT_S", 0.05)
    stuck = Stuck()
    spoken = Spoken(bench.request(tools=[stuck]), heard, http)
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
    params = {"name": "memory_search", "arguments": {"query": "x"}}
    async with spoken.bridge, await spoken.post(call | {"params": params}) as response:
        assert await response.content.readline() == b": still at it\n"
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        assert (await spoken.post(cancelled)).status == 202
        assert b'"error"' in await response.content.read()
    assert stuck.cancelled.is_set()


async def test_a_client_that_goes_away_ends_its_call(
    bench: Bench, heard: Heard, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not because nobody takes what is written.
    monkeypatch.setattr(bridges, "_STILL_AT_IT_S", 3600)
    stuck = Stuck()
    spoken = Spoken(bench.request(tools=[stuck]), heard, http)
    async with spoken.bridge:
        asking = asyncio.create_task(spoken.call("memory_search", {"query": "x"}))
        await asyncio.wait_for(stuck.called.wait(), 20)
        asking.cancel()
        await asyncio.wait_for(stuck.cancelled.wait(), 20)
