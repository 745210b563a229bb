"""`vespid.loop.v1` from a turn's request to its answer, over real SDKs and a stand-in that speaks their wires."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from tests.support.model_server import Fail, ModelServer, Raw, Say, Tool, call_tools

from vespid_protocol.frames import HistoryEntry
from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp
from vespid_runtime.engines.config import Output, decode_config
from vespid_runtime.engines.engine import EngineError, EngineParked, TurnRequest
from vespid_runtime.engines.loop import LoopEngine
from vespid_runtime.loop.prior import digest
from vespid_runtime.models.calls import Models
from vespid_runtime.models.registry import Configured, Providers
from vespid_runtime.tools.approval import ApprovalDecided, ApprovalRule, Approvals
from vespid_runtime.tools.event import ToolEvent
from vespid_runtime.tools.toolbox import Toolbox

from .conftest import KEY, FakeTool, Heard

API_KEY = "sk-canary-3e9b1c77a0d14f52"

MakeRequest = Callable[..., TurnRequest]


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def engine(server: ModelServer) -> AsyncIterator[LoopEngine]:
    async def no_sleep(seconds: float) -> None:
        """No time passes."""

    configured = {"openai": Configured(base_url=server.openai_url), "anthropic": Configured(base_url=server.origin)}
    async with GuardedHttp(EgressGuard(EgressPolicy.cloud())) as http:
        yield LoopEngine(Models(Providers(http, configured), sleep=no_sleep))


@pytest.fixture
def look() -> FakeTool:
    return FakeTool("memory.look")


@pytest.fixture
def ask(look: FakeTool) -> MakeRequest:
    def make(*, config: dict[str, Any] | None = None, engine: dict[str, Any] | None = None, **more: Any) -> TurnRequest:
        auth = {"authMode": "inline_api_key", "auth": {"kind": "api_key", "apiKey": API_KEY}}
        chosen = {"id": "vespid.loop.v1", "model": "gpt-4o", "provider": "openai", **auth, **(engine or {})}
        whole = {"engine": chosen, "toolsAllow": ["memory.*"], **(config or {})}
        given: dict[str, Any] = {
            "request_id": "run-1:n1:1",
            "session_id": None,
            "organization_id": "o",
            "user_id": "u",
            "message": "What is there?",
            "config": decode_config(msgspec.json.encode(whole)),
            "idempotency_key": KEY,
            "tools": Toolbox([look]),
            **more,
        }
        return TurnRequest(**given)

    return make


async def failure(engine: LoopEngine, request: TurnRequest) -> EngineError:
    with pytest.raises(EngineError) as failed:
        await engine.turn(request, Heard())
    return failed.value


@pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-4o"), ("anthropic", "claude-any")])
async def test_turn_is_answered_with_what_it_took(
    provider: str, model: str, server: ModelServer, engine: LoopEngine, ask: MakeRequest, look: FakeTool
) -> None:
    server.will(call_tools(Tool("memory_look", {"at": 1}), text="Let me look."), Say("Nothing much."))
    heard = Heard()
    # Whose model it is follows from its name.
    answer = await engine.turn(ask(engine={"provider": None, "model": model}), heard)
    assert answer.content == "Nothing much."
    assert answer.payload == {
        "provider": provider,
        "model": model,
        "stopReason": "stop",
        "usage": {"inputTokens": 22, "outputTokens": 14, "totalTokens": 36},
    }
    assert (answer.value, look.keys, server.requests[0].key) == (msgspec.UNSET, [f"{KEY}:tool:0"], API_KEY)
    assert "".join(heard.deltas) == "Let me look.Nothing much."
    assert API_KEY not in str(heard.kept) + str(heard.events)


async def test_model_is_given_prompt_history_and_attachments(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest
) -> None:
    server.will(Say("I see."))
    attachments = (
        {"name": "plan.md", "mimeType": "text/markdown", "contentText": "Rest."},
        {"name": "photo", "mimeType": "image/png", "contentUrl": "https://files.example/1"},
        "no attachment",
    )
    history = (
        HistoryEntry(role="assistant", content="Welcome.", seq=1),
        HistoryEntry(role="user", content="Hello.", seq=2),
        HistoryEntry(role="assistant", content="Hello yourself.", seq=3),
    )
    prompt = {"system": "Be short.", "instructions": "Answer in German."}
    await engine.turn(ask(config={"prompt": prompt}, attachments=attachments, history=history), Heard())
    assert [(said["role"], said["content"]) for said in server.requests[0].body["messages"]] == [
        ("system", "Be short.\n\nAnswer in German."),
        ("user", "Hello."),
        ("assistant", "Hello yourself."),
        (
            "user",
            "What is there?\n\n[attachment plan.md (text/markdown)]\nRest."
            "\n\n[attachment photo (image/png)]\nhttps://files.example/1",
        ),
    ]


async def test_answer_in_json_is_decoded_after_repairs(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest
) -> None:
    server.will(Say("I think it is 3."), Say('```json\n{"n": 3}\n```'))
    output = Output(mode="json", json_schema={"type": "object", "required": ["n"]})
    answer = await engine.turn(ask(output=output), Heard())
    assert (answer.content, answer.value) == ('{"n": 3}', {"n": 3})
    assert answer.usage is not None
    assert answer.usage.total_tokens == 36


async def test_failure_tells_what_was_used_all_the_same(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest
) -> None:
    server.will(call_tools(Tool("memory_look", {})), Fail(400, "you may not"))
    failed = await failure(engine, ask())
    assert (failed.code, failed.usage and failed.usage.total_tokens) == ("OPENAI_REQUEST_FAILED:400", 18)
    assert "you may not" in failed.message


async def test_server_that_speaks_nonsense_ends_the_turn_with_a_code(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest
) -> None:
    event = (
        b'data: {"choices":[{"index":0,"delta":{"content":["a","list"]},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    server.will(Raw(event, content_type="text/event-stream"))
    assert (await failure(engine, ask())).code == "OPENAI_REQUEST_FAILED:INVALID_RESPONSE"


@pytest.mark.parametrize(
    ("chosen", "code", "names"),
    [
        ({"model": None}, "INVALID_EXECUTE_PAYLOAD", "engine.model"),
        ({"model": "mystery", "provider": None}, "INVALID_EXECUTE_PAYLOAD", "engine.provider"),
        ({"provider": "skynet"}, "ENGINE_UNAVAILABLE", "skynet"),
        ({"authMode": "env", "auth": None}, "LLM_AUTH_NOT_CONFIGURED", "openai"),
    ],
)
async def test_engine_that_cannot_be_asked_says_what_is_missing(
    chosen: dict[str, Any], code: str, names: str, server: ModelServer, engine: LoopEngine, ask: MakeRequest
) -> None:
    failed = await failure(engine, ask(engine=chosen))
    assert (failed.code, names in failed.message, server.requests) == (code, True, [])


async def test_call_that_an_earlier_try_had_answered_is_answered_from_its_events(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest, look: FakeTool
) -> None:
    server.will(call_tools(Tool("memory_look", {"at": 1})), Say("As before."))
    prior = (
        ToolEvent(kind="tool_call", payload={"n": 0, "digest": digest({"at": 1}), "tool": "memory.look"}),
        ToolEvent(kind="tool_result", payload={"n": 0, "tool": "memory.look", "content": "seen"}),
    )
    heard = Heard()
    assert (await engine.turn(ask(prior=prior), heard)).content == "As before."
    assert (look.uses, heard.events) == ([], [])
    assert server.requests[1].body["messages"][-1]["content"] == "seen"


@pytest.mark.parametrize("resume", [b"no JSON", b"{}", b'{"state":"calling","turns":3}', b'{"state":"finished"}'])
async def test_state_that_cannot_be_gone_on_from_begins_the_turn_anew(
    resume: bytes, server: ModelServer, engine: LoopEngine, ask: MakeRequest
) -> None:
    server.will(Say("From the beginning."))
    assert (await engine.turn(ask(resume=resume), Heard())).content == "From the beginning."


async def test_parked_turn_goes_on_elsewhere_and_tells_only_its_own_tokens(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest, look: FakeTool
) -> None:
    server.will(call_tools(Tool("memory_look", {"at": 1})), Say("Looked."))
    rules = {"memory.*": ApprovalRule()}
    with pytest.raises(EngineParked) as parked:
        await engine.turn(ask(approvals=Approvals(rules)), Heard())
    (asked,) = parked.value.asked
    approved = ApprovalDecided(n=asked.n, tool=asked.tool, digest=asked.digest, decision="approved")
    answer = await engine.turn(ask(approvals=Approvals(rules, (approved,)), resume=parked.value.state), Heard())
    assert (answer.content, len(look.uses), len(server.requests)) == ("Looked.", 1, 2)
    assert [used and used.total_tokens for used in (parked.value.usage, answer.usage)] == [18, 18]


async def test_try_after_a_failed_one_goes_on_and_tells_only_its_own_tokens(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest, look: FakeTool
) -> None:
    server.will(call_tools(Tool("memory_look", {"at": 1})), Fail(400, "not now"), Say("Looked."))
    heard = Heard()
    with pytest.raises(EngineError) as failed:
        await engine.turn(ask(), heard)
    answer = await engine.turn(ask(resume=heard.kept[-1]), Heard())
    assert (answer.content, len(look.uses), len(server.requests)) == ("Looked.", 1, 3)
    assert [used and used.total_tokens for used in (failed.value.usage, answer.usage)] == [18, 18]


async def test_turn_that_died_is_gone_on_with_and_its_tokens_are_told_by_the_next_try(
    server: ModelServer, engine: LoopEngine, ask: MakeRequest, look: FakeTool
) -> None:
    class Died(BaseException):
        pass

    class Dying(Heard):
        async def keep(self, state: bytes) -> None:
            await super().keep(state)
            if len(self.kept) == 2:
                raise Died

    server.will(call_tools(Tool("memory_look", {"at": 1})), Say("Looked."))
    dying = Dying()
    with pytest.raises(Died):
        await engine.turn(ask(), dying)
    answer = await engine.turn(ask(resume=dying.kept[-1]), Heard())
    assert (answer.content, len(look.uses), len(server.requests)) == ("Looked.", 1, 2)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 36
