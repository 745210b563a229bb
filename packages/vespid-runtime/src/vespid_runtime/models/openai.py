"""OpenAI's chat completions, and every server that speaks them: vLLM, Ollama, OpenRouter, llama.cpp."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

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
    ToolSpec,
    Usage,
    User,
)

_STOPS: dict[str | None, StopReason] = {"length": "length", "content_filter": "refusal", "tool_calls": "tool_calls"}
# 429, but waiting does not help: the account has no money left.
_SPENT = "insufficient_quota"


class OpenAiProvider:
    """Keeps nothing between calls, so one serves all."""

    async def infer(self, call: Call) -> ModelReply:
        client, body = _client(call), _body(call)
        with _failures(call) as failures:
            completion = await client.chat.completions.create(**body, stream=False)
            # Some gateways answer 200 with a page, or with an error inside.
            if not isinstance(completion, ChatCompletion) or not completion.choices:
                raise failures.invalid("the answer holds no choice")
            return _reply(completion)

    async def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        answer, client, body = _Answer(), _client(call), _body(call)
        body["stream_options"] = {"include_usage": True}
        with _failures(call) as failures:
            chunks = await client.chat.completions.create(**body, stream=True)
            try:
                async with aclosing(_pieces(chunks, answer)) as pieces:
                    async for piece in pieces:
                        yield piece
            finally:
                await chunks.close()
            if answer.finish is None:
                raise failures.broke_off()
        reply = answer.reply()
        for wanted in reply.tool_calls:
            yield wanted
        yield Done(reply=reply)


def _reply(completion: ChatCompletion) -> ModelReply:
    choice = completion.choices[0]
    said = choice.message
    calls = tuple(
        ToolCall(id=wanted.id, name=wanted.function.name, arguments=wanted.function.arguments or "{}")
        for wanted in said.tool_calls or ()
        if wanted.type == "function"
    )
    return ModelReply(
        content=said.content or said.refusal or "",
        tool_calls=calls,
        stop_reason=_stop(choice.finish_reason, calls, refused=bool(said.refusal)),
        usage=_usage(completion.usage),
    )


class _Answer:
    """What the chunks have told so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        # By the position that the chunks give: id, name, pieces of arguments.
        self.calls: dict[int, tuple[str, str, list[str]]] = {}
        self.finish: str | None = None
        self.refused = False
        self.usage: CompletionUsage | None = None

    def reply(self) -> ModelReply:
        calls = tuple(
            ToolCall(id=call_id, name=name, arguments="".join(pieces) or "{}")
            for _, (call_id, name, pieces) in sorted(self.calls.items())
        )
        return ModelReply(
            content="".join(self.texts),
            tool_calls=calls,
            stop_reason=_stop(self.finish, calls, refused=self.refused),
            usage=_usage(self.usage),
        )


async def _pieces(chunks: openai.AsyncStream[ChatCompletionChunk], answer: _Answer) -> AsyncGenerator[Piece, None]:
    async for chunk in chunks:
        answer.usage = chunk.usage or answer.usage
        for choice in chunk.choices[:1]:
            for piece in _of_delta(choice.delta, answer):
                yield piece
            answer.finish = choice.finish_reason or answer.finish


def _of_delta(delta: ChoiceDelta, answer: _Answer) -> Iterator[Piece]:
    answer.refused = answer.refused or bool(delta.refusal)
    text = delta.content or delta.refusal
    if text:
        answer.texts.append(text)
        yield TextDelta(text=text)
    for wanted in delta.tool_calls or ():
        yield _of_call(wanted, answer)


def _of_call(wanted: ChoiceDeltaToolCall, answer: _Answer) -> Piece:
    name = (wanted.function.name if wanted.function is not None else None) or ""
    arguments = (wanted.function.arguments if wanted.function is not None else None) or ""
    # Some servers leave the id out: the position is unique within the answer, which is all we need of it.
    known = answer.calls.setdefault(wanted.index, (wanted.id or f"call_{wanted.index}", name, []))
    known[2].append(arguments)
    return ToolCallDelta(id=known[0], name=known[1], arguments=arguments)


def _client(call: Call) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        # The SDK insists on a value; the transport does not send one that is not there.
        api_key=call.api_key or "none",
        base_url=call.base_url,
        http_client=sdk_client(call),
        max_retries=0,
        timeout=None,
        # As the SDK itself sends a key; said here because OPENAI_CUSTOM_HEADERS would replace what is not.
        default_headers={"Authorization": f"Bearer {call.api_key}"},
    )


def _body(call: Call) -> dict[str, Any]:
    request = call.request
    body: dict[str, Any] = {"model": request.model, "messages": [_message(message) for message in request.messages]}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return body


def _message(message: Message) -> dict[str, Any]:
    match message:
        case System(content=content):
            return {"role": "system", "content": content}
        case User(content=content):
            return {"role": "user", "content": content}
        case ToolResult(call_id=call_id, content=content):
            return {"role": "tool", "tool_call_id": call_id, "content": content}
        case Assistant(content=content, tool_calls=()):
            return {"role": "assistant", "content": content}
        case Assistant(content=content, tool_calls=calls):
            return {"role": "assistant", "content": content or None, "tool_calls": list(_calls(calls))}


def _calls(calls: Iterable[ToolCall]) -> Iterator[dict[str, Any]]:
    for call in calls:
        yield {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
    }


def _stop(finish: str | None, calls: tuple[ToolCall, ...], *, refused: bool) -> StopReason:
    # Some servers say `stop` beside calls.
    if calls and finish != "length":
        return "tool_calls"
    return "refusal" if refused else _STOPS.get(finish, "stop")


def _usage(usage: CompletionUsage | None) -> Usage:
    given, made = (token_count(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(input_tokens=given, output_tokens=made, total_tokens=given + made)


@contextmanager
def _failures(call: Call) -> Iterator[Failures]:
    """Without the SDK's errors behind ours: their text may quote the key, and tracebacks show it."""
    failures = Failures(call.request.provider, call.api_key)
    try:
        yield failures
    except openai.APIStatusError as answered:
        spent = False if answered.code == _SPENT else None
        raise failures.status(
            answered.status_code, answered.message, answered.response.headers, retryable=spent
        ) from None
    except openai.APIConnectionError as broken:
        raise failures.network(broken) from None
    except openai.APIError as told:
        # An error in the midst of a stream, whose status was 200: OpenRouter says the real one in `code`.
        code = told.code or ""
        raise failures.status(int(code) if code.isdecimal() and len(code) == 3 else 500, told.message) from None
    except (openai.OpenAIError, *UNREADABLE) as odd:
        raise failures.invalid(f"the answer cannot be read ({type(odd).__name__})") from None
