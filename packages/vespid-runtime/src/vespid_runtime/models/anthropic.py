"""Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent

from vespid_runtime.models.failures import UNREADABLE, Failures
from vespid_runtime.models.provider import Call, token_count
from vespid_runtime.models.transport import sdk_client
from vespid_runtime.models.types import (
    Assistant,
    Done,
    Message,
    ModelReply,
    Piece,
    StopReason,
    System,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)

# The API wants a number, and refuses one that is larger than the model can: this is what every model in use takes.
MAX_OUTPUT_TOKENS = 8192

_STOPS: dict[str | None, StopReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}

# What an error in the midst of a stream would have had as its status.
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicProvider:
    """Keeps nothing between calls, so one serves all."""

    async def infer(self, call: Call) -> ModelReply:
        client, body = _client(call), _body(call)
        with _failures(call) as failures:
            message = await client.messages.create(**body, stream=False)
            if not isinstance(message, AnthropicMessage) or not isinstance(message.content, list):
                raise failures.invalid("the answer is no message")
            return _reply(message)

    async def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        answer, client, body = _Answer(), _client(call), _body(call)
        with _failures(call) as failures:
            events = await client.messages.create(**body, stream=True)
            try:
                async for event in events:
                    for piece in answer.heard(event):
                        yield piece
            finally:
                await events.close()
            if not answer.ended:
                raise failures.broke_off()
        yield Done(reply=answer.reply())


def _reply(message: AnthropicMessage) -> ModelReply:
    calls = tuple(
        ToolCall(id=block.id, name=block.name, arguments=json.dumps(block.input, ensure_ascii=False))
        for block in message.content
        if block.type == "tool_use"
    )
    return ModelReply(
        content="".join(block.text for block in message.content if block.type == "text"),
        tool_calls=calls,
        stop_reason=_STOPS.get(message.stop_reason, "stop"),
        usage=_usage(_input_tokens(message.usage), _count(message.usage, "output_tokens")),
    )


class _Answer:
    """What the events have told so far."""

    def __init__(self) -> None:
        self.ended = False
        self._texts: list[str] = []
        # By the index of their block: id, name, pieces of arguments.
        self._open: dict[int, tuple[str, str, list[str]]] = {}
        self._calls: list[ToolCall] = []
        self._stop: str | None = None
        self._input_tokens = 0
        self._output_tokens = 0

    def heard(self, event: RawMessageStreamEvent) -> Iterator[Piece]:
        match event.type:
            case "message_start":
                self._input_tokens = _input_tokens(event.message.usage)
            case "content_block_start" if event.content_block.type == "tool_use":
                block = event.content_block
                self._open[event.index] = (block.id, block.name, [])
                yield ToolCallDelta(id=block.id, name=block.name, arguments="")
            case "content_block_delta" if event.delta.type == "text_delta":
                self._texts.append(event.delta.text)
                yield TextDelta(text=event.delta.text)
            case "content_block_delta" if event.delta.type == "input_json_delta" and event.index in self._open:
                call_id, name, pieces = self._open[event.index]
                pieces.append(event.delta.partial_json)
                yield ToolCallDelta(id=call_id, name=name, arguments=event.delta.partial_json)
            case "content_block_stop" if event.index in self._open:
                call_id, name, pieces = self._open.pop(event.index)
                call = ToolCall(id=call_id, name=name, arguments="".join(pieces) or "{}")
                self._calls.append(call)
                yield call
            case "message_delta":
                self._stop = event.delta.stop_reason
                self._output_tokens = _count(event.usage, "output_tokens")
            case "message_stop":
                self.ended = True
            case _:
                # Thoughts, citations, and what will be invented later.
                return

    def reply(self) -> ModelReply:
        return ModelReply(
            content="".join(self._texts),
            tool_calls=tuple(self._calls),
            stop_reason=_STOPS.get(self._stop, "stop"),
            usage=_usage(self._input_tokens, self._output_tokens),
        )


def _client(call: Call) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        api_key=call.api_key,
        base_url=call.base_url,
        http_client=sdk_client(call),
        max_retries=0,
        timeout=None,
        open_telemetry=False,
        # As the SDK itself sends a key; said here because ANTHROPIC_CUSTOM_HEADERS would replace what is not.
        default_headers={"Authorization": f"Bearer {call.api_key}", "X-Api-Key": anthropic.Omit()},  # type: ignore[dict-item]
    )


def _body(call: Call) -> dict[str, Any]:
    request = call.request
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": MAX_OUTPUT_TOKENS,
        "messages": _messages(request.messages),
    }
    system = "\n\n".join(message.content for message in request.messages if isinstance(message, System))
    if system:
        body["system"] = system
    if request.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in request.tools
        ]
    return body


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """In turns: the API wants the results of one assistant message in one user message, first of all in it."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, System):
            continue
        role = "assistant" if isinstance(message, Assistant) else "user"
        blocks = list(_blocks(message))
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    if isinstance(message, ToolResult):
        result = {"type": "tool_result", "tool_use_id": message.call_id, "content": message.content}
        yield {**result, "is_error": True} if message.is_error else result
        return
    # The API refuses text that is empty.
    if message.content:
        yield {"type": "text", "text": message.content}
    if isinstance(message, Assistant):
        for call in message.tool_calls:
            yield {"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)}


def _object(arguments: str) -> dict[str, Any]:
    """The API takes objects only: what the model wrote instead of one is told back to it under a name of ours."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"_invalid": arguments}


def _input_tokens(usage: object) -> int:
    """All that was read, from a cache or not: the API counts them apart."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(_count(usage, name) for name in names)


def _count(usage: object, name: str) -> int:
    return token_count(getattr(usage, name, None))


def _usage(given: int, made: int) -> Usage:
    return Usage(input_tokens=given, output_tokens=made, total_tokens=given + made)


@contextmanager
def _failures(call: Call) -> Iterator[Failures]:
    """Without the SDK's errors behind ours: their text may quote the key, and tracebacks show it."""
    failures = Failures(call.request.provider, call.api_key)
    try:
        yield failures
    except anthropic.APIStatusError as answered:
        said = answered.api_message or answered.message
        # In the midst of a stream the status was 200.
        status = answered.status_code
        status = status if status >= 300 else _STATUS_OF_TYPE.get(answered.type or "", 500)
        raise failures.status(status, said, answered.response.headers) from None
    except (anthropic.APIConnectionError, httpx2.RequestError) as broken:
        raise failures.network(broken) from None
    except (anthropic.AnthropicError, *UNREADABLE) as odd:
        raise failures.invalid(f"the answer cannot be read ({type(odd).__name__})") from None
