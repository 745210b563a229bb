"""The official SDKs against a stand-in that speaks the providers' wires."""

import json
from typing import Any

import pytest
from tests.support.model_server import Fail, Midway, ModelServer, Raw, Say, Tool, call_tools

from vespid_runtime.models.calls import Models
from vespid_runtime.models.types import (
    Assistant,
    Done,
    ModelError,
    ModelReply,
    ModelRequest,
    Piece,
    System,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    ToolSpec,
    Usage,
    User,
)

from .conftest import KEY, PROVIDERS, MakeRequest

every_provider = pytest.mark.parametrize("provider", PROVIDERS)

ADD = ToolSpec(
    name="add",
    description="Adds two numbers.",
    input_schema={"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
)


async def collect(models: Models, request: ModelRequest, heard: list[Piece] | None = None) -> list[Piece]:
    """All pieces; in `heard` also those before an error."""
    pieces = heard if heard is not None else []
    async for piece in models.stream(request):
        pieces.append(piece)
    return pieces


async def both_ways(models: Models, request: ModelRequest) -> tuple[ModelReply, ModelReply]:
    whole = await models.infer(request)
    last = (await collect(models, request))[-1]
    assert isinstance(last, Done)
    return whole, last.reply


def code_prefix(provider: str) -> str:
    return f"{provider.upper().replace('-', '_')}_REQUEST_FAILED"


@every_provider
async def test_text_and_usage_are_the_same_whole_and_streamed(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Say("Five, I think."), Say("Five, I think."))
    for reply in await both_ways(models, ask(provider)):
        assert reply.content == "Five, I think."
        assert reply.stop_reason == "stop"
        assert reply.usage == Usage(input_tokens=11, output_tokens=7, total_tokens=18)
    assert [asked.key for asked in server.requests] == [KEY, KEY]


@every_provider
async def test_stream_gives_text_in_pieces_and_ends_with_the_whole(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Say("one two three", pieces=3))
    *pieces, done = await collect(models, ask(provider))
    texts = [piece.text for piece in pieces if isinstance(piece, TextDelta)]
    assert len(texts) == 3
    assert "".join(texts) == "one two three"
    assert isinstance(done, Done)
    assert done.reply.content == "one two three"


@every_provider
async def test_parallel_tool_calls_come_with_distinct_ids_and_their_arguments(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    step = call_tools(Tool("add", {"a": 2, "b": 3}), Tool("add", {"a": 4, "b": 5}), text="Let me see.")
    server.will(step, step)
    for reply in await both_ways(models, ask(provider, tools=(ADD,))):
        assert reply.stop_reason == "tool_calls"
        assert reply.content == "Let me see."
        assert [call.name for call in reply.tool_calls] == ["add", "add"]
        assert [call.arguments for call in reply.tool_calls] == ['{"a": 2, "b": 3}', '{"a": 4, "b": 5}']
        assert len({call.id for call in reply.tool_calls}) == 2


@every_provider
async def test_streamed_tool_call_comes_in_deltas_and_then_whole(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(call_tools(Tool("add", {"a": 2, "b": 3})))
    pieces = await collect(models, ask(provider, tools=(ADD,)))
    deltas = [piece for piece in pieces if isinstance(piece, ToolCallDelta)]
    calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
    assert "".join(delta.arguments for delta in deltas) == '{"a": 2, "b": 3}'
    assert [call.arguments for call in calls] == ['{"a": 2, "b": 3}']
    assert {delta.id for delta in deltas} == {calls[0].id}


async def converse(provider: str, server: ModelServer, models: Models, ask: MakeRequest) -> dict[str, Any]:
    """A conversation with a call and its result goes back to the provider; what it got."""
    server.will(call_tools(Tool("add", {"a": 2}), Tool("add", {"b": 3}), text="Let me see."), Say("Five."))
    request = ask(provider, System(content="Be brief."), User(content="2 and 3?"), tools=(ADD,))
    first = await models.infer(request)
    results = tuple(
        ToolResult(call_id=call.id, content=f"result {at}", is_error=at == 1)
        for at, call in enumerate(first.tool_calls)
    )
    second = await models.infer(ask(provider, *request.messages, first.message, *results, tools=(ADD,)))
    assert second.content == "Five."
    return server.requests[-1].body


async def test_openai_gets_results_as_tool_messages_by_call_id(
    server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    body = await converse("openai", server, models, ask)
    assert [said["role"] for said in body["messages"]] == ["system", "user", "assistant", "tool", "tool"]
    called = [call["id"] for call in body["messages"][2]["tool_calls"]]
    assert [said["tool_call_id"] for said in body["messages"][3:]] == called
    assert body["tools"][0]["function"]["parameters"] == ADD.input_schema


async def test_anthropic_gets_all_results_of_a_turn_in_one_user_message(
    server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    body = await converse("anthropic", server, models, ask)
    assert body["system"] == "Be brief."
    assert [said["role"] for said in body["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in body["messages"][1]["content"]] == ["text", "tool_use", "tool_use"]
    results = body["messages"][2]["content"]
    assert [(block["type"], block["tool_use_id"]) for block in results] == [
        ("tool_result", "toolu_0"),
        ("tool_result", "toolu_1"),
    ]
    assert results[1]["is_error"] is True


async def test_gemini_gets_results_by_name_and_its_signatures_back(
    server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    body = await converse("gemini", server, models, ask)
    assert body["systemInstruction"]["parts"][0]["text"] == "Be brief."
    assert [turn["role"] for turn in body["contents"]] == ["user", "model", "user"]
    calls = [part for part in body["contents"][1]["parts"] if "functionCall" in part]
    assert [part["thoughtSignature"] for part in calls] == ["dGhvdWdodA=="] * 2
    answers = [part["functionResponse"] for part in body["contents"][2]["parts"]]
    assert answers == [
        {"name": "add", "response": {"output": "result 0"}},
        {"name": "add", "response": {"error": "result 1"}},
    ]


@pytest.mark.parametrize("provider", ["openai", "openai-compatible", "anthropic"])
async def test_arguments_that_are_no_json_are_handed_on_as_they_are(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(call_tools(Tool("add", '{"a": 2, "b')))
    pieces = await collect(models, ask(provider, tools=(ADD,)))
    assert [piece.arguments for piece in pieces if isinstance(piece, ToolCall)] == ['{"a": 2, "b']


@pytest.mark.parametrize("provider", ["anthropic", "gemini"])
async def test_arguments_that_are_no_object_do_not_end_the_conversation(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Say("I see."))
    call = ToolCall(id="c1", name="add", arguments='{"a": 2, "b')
    request = ask(
        provider,
        User(content="2 and 3?"),
        Assistant(tool_calls=(call,)),
        ToolResult(call_id="c1", content="not JSON", is_error=True),
        tools=(ADD,),
    )
    assert (await models.infer(request)).content == "I see."


@every_provider
@pytest.mark.parametrize(("stop", "reason"), [("length", "length"), ("refusal", "refusal")])
async def test_why_the_model_stopped_is_told(
    provider: str, stop: Any, reason: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Say("So", stop=stop), Say("So", stop=stop))
    for reply in await both_ways(models, ask(provider)):
        assert reply.stop_reason == reason


@every_provider
@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_what_a_retry_cannot_mend_fails_at_once_with_its_status(
    provider: str, status: int, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Fail(status, "you may not"))
    with pytest.raises(ModelError) as failed:
        await models.infer(ask(provider))
    assert failed.value.code == f"{code_prefix(provider)}:{status}"
    assert not failed.value.retryable
    assert "you may not" in failed.value.message
    assert len(server.requests) == 1


@every_provider
async def test_stream_that_is_cut_fails_as_network_and_is_not_begun_anew(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Midway(Say("one two three four", pieces=8), "cut", after=5))
    heard: list[Piece] = []
    with pytest.raises(ModelError) as failed:
        await collect(models, ask(provider), heard)
    assert failed.value.code == f"{code_prefix(provider)}:NETWORK"
    assert failed.value.retryable
    assert any(isinstance(piece, TextDelta) for piece in heard)
    assert len(server.requests) == 1


@every_provider
async def test_stream_that_ends_before_its_answer_is_no_answer(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Midway(Say("one two three four", pieces=8), "end", after=5))
    with pytest.raises(ModelError) as failed:
        await collect(models, ask(provider))
    assert failed.value.code == f"{code_prefix(provider)}:NETWORK"


async def test_error_within_a_stream_has_the_status_it_stands_for(
    server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Midway(Say("one two three four", pieces=8), "error", kind="overloaded_error", after=5))
    with pytest.raises(ModelError) as failed:
        await collect(models, ask("anthropic"))
    assert failed.value.code == "ANTHROPIC_REQUEST_FAILED:529"
    assert failed.value.retryable


@every_provider
@pytest.mark.parametrize(
    "raw", [Raw(b"<html>hello</html>", content_type="text/html"), Raw(b"{"), Raw(b"{}"), Raw(b"[]"), Raw(b"null")]
)
async def test_answer_that_is_none_is_told_as_such(
    provider: str, raw: Raw, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(raw)
    with pytest.raises(ModelError) as failed:
        await models.infer(ask(provider))
    assert failed.value.code == f"{code_prefix(provider)}:INVALID_RESPONSE"
    assert len(server.requests) == 1


@every_provider
@pytest.mark.parametrize(
    "event", [b"data: {\n\n", b"data: []\n\n", b"data: 1\n\n", b"event: message_start\ndata: {}\n\n"]
)
async def test_stream_of_nonsense_is_an_error_and_no_crash(
    provider: str, event: bytes, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(*[Raw(event, content_type="text/event-stream")] * 3)
    with pytest.raises(ModelError) as failed:
        await collect(models, ask(provider))
    assert failed.value.code.startswith(code_prefix(provider))


@pytest.mark.parametrize(
    "said",
    [
        {"content": ["a", "list"]},
        {"content": {"text": "an object"}},
        {"content": 7},
        {"tool_calls": [{"id": 7, "type": "function", "function": {"name": "add", "arguments": "{}"}}]},
        {"tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
    ],
)
async def test_answer_of_other_types_than_the_wire_has_is_told_as_such(
    said: dict[str, Any], server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", **said}, "finish_reason": "stop"}]}
    piece = {"choices": [{"index": 0, "delta": said, "finish_reason": "stop"}]}
    server.will(
        Raw(json.dumps(whole).encode()),
        Raw(f"data: {json.dumps(piece)}\n\ndata: [DONE]\n\n".encode(), content_type="text/event-stream"),
    )
    for asking in (models.infer(ask("openai-compatible")), collect(models, ask("openai-compatible"))):
        with pytest.raises(ModelError) as failed:
            await asking
        assert failed.value.code == "OPENAI_COMPATIBLE_REQUEST_FAILED:INVALID_RESPONSE"


@pytest.mark.parametrize("count", ["11", -3, 1.5, True, [11], {"a": 1}, 10**30, None])
async def test_tokens_that_are_no_count_are_not_counted(
    count: object, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    openai = {"prompt_tokens": count, "completion_tokens": 2}
    answer = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": openai}
    anthropic = {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": count, "output_tokens": 2},
    }  # fmt: skip
    server.will(Raw(json.dumps(answer).encode()), Raw(json.dumps(anthropic).encode()))
    for provider in ("openai", "anthropic"):
        reply = await models.infer(ask(provider))
        assert (reply.content, reply.usage) == ("Hi", Usage(input_tokens=0, output_tokens=2, total_tokens=2))


async def test_quota_that_is_spent_is_not_waited_for(server: ModelServer, models: Models, ask: MakeRequest) -> None:
    server.will(Fail(429, "no money", "insufficient_quota"))
    with pytest.raises(ModelError) as failed:
        await models.infer(ask("openai"))
    assert failed.value.code == "OPENAI_REQUEST_FAILED:429"
    assert not failed.value.retryable
    assert len(server.requests) == 1
