"""Google's Gemini: `generateContent`."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from google import genai
from google.genai import errors, types

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

_REFUSALS = frozenset({"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"})


class GeminiProvider:
    """Keeps nothing between calls, so one serves all."""

    async def infer(self, call: Call) -> ModelReply:
        answer, models, body = _Answer(), _models(call, sdk_client(call)), _body(call)
        with _failures(call) as failures:
            response = await models.generate_content(**body)
            for _ in answer.heard(response):
                pass
            if not answer.ended:
                raise failures.invalid("the answer holds no candidate")
        return answer.reply()

    async def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        sends = sdk_client(call)
        answer, models, body = _Answer(), _models(call, sends), _body(call)
        with _failures(call) as failures:
            # The SDK's generators do not close each other: closing what sends is what ends the call.
            async with sends:
                async for response in await models.generate_content_stream(**body):
                    for piece in answer.heard(response):
                        yield piece
            if not answer.ended:
                raise failures.broke_off()
        yield Done(reply=answer.reply())


class _Answer:
    """What the responses have told so far; a call always comes whole in one of them."""

    def __init__(self) -> None:
        self.ended = False
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._stop: StopReason = "stop"
        self._usage = Usage(input_tokens=0, output_tokens=0, total_tokens=0)

    def heard(self, response: types.GenerateContentResponse) -> Iterator[Piece]:
        self._usage = _usage(response.usage_metadata) or self._usage
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason is not None:
            self.ended, self._stop = True, "refusal"
        for candidate in (response.candidates or [])[:1]:
            for part in (candidate.content.parts if candidate.content is not None else None) or []:
                yield from self._part(part)
            if candidate.finish_reason is not None:
                self.ended, self._stop = True, _stop(str(candidate.finish_reason.value))

    def _part(self, part: types.Part) -> Iterator[Piece]:
        if part.text and not part.thought:
            self._texts.append(part.text)
            yield TextDelta(text=part.text)
        if part.function_call is not None:
            call = self._call(part.function_call, part.thought_signature)
            self._calls.append(call)
            yield ToolCallDelta(id=call.id, name=call.name, arguments=call.arguments)
            yield call

    def _call(self, asked: types.FunctionCall, signature: bytes | None) -> ToolCall:
        return ToolCall(
            # Gemini matches by name and order and mostly gives no id; ours needs to be unique in the answer alone.
            id=asked.id or f"call_{len(self._calls)}",
            name=asked.name or "",
            arguments=json.dumps(asked.args or {}, ensure_ascii=False),
            # What it thought before the call: without it newer models refuse the conversation.
            opaque=base64.b64encode(signature).decode() if signature else None,
        )

    def reply(self) -> ModelReply:
        stop = "tool_calls" if self._calls and self._stop == "stop" else self._stop
        return ModelReply(
            content="".join(self._texts), tool_calls=tuple(self._calls), stop_reason=stop, usage=self._usage
        )


def _models(call: Call, sends: httpx2.AsyncClient) -> Any:
    """The SDK's `models`, of a client that asks nothing of the environment."""
    options = types.HttpOptions(
        base_url=call.base_url,
        httpx_async_client=sends,
        # Unused, but without one the client reads all certificates of the system for one of its own.
        httpx_client=httpx2.Client(transport=_Nowhere(), trust_env=False),
        retry_options=types.HttpRetryOptions(attempts=1),
    )
    return genai.Client(api_key=call.api_key, vertexai=False, http_options=options).aio.models


class _Nowhere(httpx2.BaseTransport):
    """Nothing is sent by the blocking client."""


def _body(call: Call) -> dict[str, Any]:
    request = call.request
    system = "\n\n".join(message.content for message in request.messages if isinstance(message, System))
    declared = [
        types.FunctionDeclaration(
            name=tool.name, description=tool.description, parameters_json_schema=tool.input_schema
        )
        for tool in request.tools
    ]
    return {
        "model": request.model,
        "contents": _contents(request.messages),
        "config": types.GenerateContentConfig(
            system_instruction=system or None,
            tools=[types.Tool(function_declarations=declared)] if declared else None,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        ),
    }


def _contents(messages: tuple[Message, ...]) -> list[types.Content]:
    names = {call.id: call.name for said in messages if isinstance(said, Assistant) for call in said.tool_calls}
    turns: list[types.Content] = []
    for message in messages:
        if isinstance(message, System):
            continue
        role = "model" if isinstance(message, Assistant) else "user"
        parts = list(_parts(message, names))
        if turns and turns[-1].role == role:
            turns[-1].parts = [*(turns[-1].parts or []), *parts]
        elif parts:
            turns.append(types.Content(role=role, parts=parts))
    return turns


def _parts(message: Message, names: dict[str, str]) -> Iterator[types.Part]:
    if isinstance(message, ToolResult):
        answer = {"error" if message.is_error else "output": message.content}
        response = types.FunctionResponse(name=names.get(message.call_id, message.call_id), response=answer)
        yield types.Part(function_response=response)
        return
    if message.content:
        yield types.Part(text=message.content)
    if isinstance(message, Assistant):
        for call in message.tool_calls:
            yield types.Part(
                function_call=types.FunctionCall(name=call.name, args=_object(call.arguments)),
                thought_signature=base64.b64decode(call.opaque) if call.opaque else None,
            )


def _object(arguments: str) -> dict[str, Any]:
    """The API takes objects only: what the model wrote instead of one is told back to it under a name of ours."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"_invalid": arguments}


def _stop(finish: str) -> StopReason:
    if finish == "MAX_TOKENS":
        return "length"
    return "refusal" if finish in _REFUSALS else "stop"


def _usage(usage: types.GenerateContentResponseUsageMetadata | None) -> Usage | None:
    if usage is None:
        return None
    given = token_count(usage.prompt_token_count) + token_count(usage.tool_use_prompt_token_count)
    made = token_count(usage.candidates_token_count) + token_count(usage.thoughts_token_count)
    return Usage(input_tokens=given, output_tokens=made, total_tokens=given + made)


@contextmanager
def _failures(call: Call) -> Iterator[Failures]:
    """Without the SDK's errors behind ours: their text may quote the key, and tracebacks show it."""
    failures = Failures(call.request.provider, call.api_key)
    try:
        yield failures
    except errors.APIError as answered:
        headers = getattr(answered.response, "headers", None)
        status = answered.code if isinstance(answered.code, int) and answered.code >= 300 else 500
        raise failures.status(status, answered.message or answered.status or "", headers) from None
    except httpx2.RequestError as broken:
        raise failures.network(broken) from None
    except UNREADABLE as odd:
        raise failures.invalid(f"the answer cannot be read ({type(odd).__name__})") from None
