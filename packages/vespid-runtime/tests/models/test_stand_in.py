"""The stand-in's wires that our own providers do not speak, held against the official SDK."""

from collections.abc import AsyncIterator

import openai
import pytest
from tests.support.model_server import Fail, Midway, ModelServer, Say, Tool, call_tools


@pytest.fixture
async def client(server: ModelServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="k", base_url=server.openai_url, max_retries=0) as opened:
        yield opened


async def test_responses_whole(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.will(call_tools(Tool("add", {"a": 2}), text="Let me see."))
    response = await client.responses.create(model="m", input="2 and 3?")
    assert response.output_text == "Let me see."
    assert [(item.type, item.arguments) for item in response.output if item.type == "function_call"] == [
        ("function_call", '{"a": 2}')
    ]
    assert response.usage is not None
    assert response.usage.total_tokens == 18


async def test_responses_streamed_by_the_helper_that_checks_their_order(
    server: ModelServer, client: openai.AsyncOpenAI
) -> None:
    server.will(call_tools(Tool("add", {"a": 2}), text="Let me see."))
    async with client.responses.stream(model="m", input="2 and 3?") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert {"response.output_text.delta", "response.function_call_arguments.delta"} <= set(kinds)
    assert final.output_text == "Let me see."


async def test_responses_refused(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.will(Fail(429, "slow down", headers=(("Retry-After", "3"),)))
    with pytest.raises(openai.RateLimitError) as refused:
        await client.responses.create(model="m", input="2 and 3?")
    assert refused.value.response.headers["Retry-After"] == "3"


async def test_responses_stream_that_fails_midway(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.will(Midway(Say("one two three"), "error", kind="server_error"))
    kinds = [event.type async for event in await client.responses.create(model="m", input="x", stream=True)]
    assert kinds[-1] == "error"
    assert "response.completed" not in kinds
