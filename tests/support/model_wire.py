"""What model providers write: whole answers, events of streams, errors, in the shape of each wire. Pure.

After the providers' own references; field by field what their SDKs and the command line programs read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.model_server import Say, Tool, Wire

_AT = 1_760_000_000


def whole(wire: Wire, step: Say, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    return {"chat": _chat, "responses": _response, "messages": _message, "gemini": _gemini}[wire](step, body)


def events(wire: Wire, step: Say, body: dict[str, Any]) -> list[bytes]:
    """The same as server-sent events."""
    made = {
        "chat": _chat_events,
        "responses": _response_events,
        "messages": _message_events,
        "gemini": _gemini_events,
    }[wire]
    return made(step, body)


def error(wire: Wire, status: int, kind: str | None, message: str) -> dict[str, Any]:
    """The body of an answer with that status."""
    if wire == "messages":
        known = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
        known |= {404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
        return {"type": "error", "error": {"type": kind or known.get(status, "api_error"), "message": message}}
    if wire == "gemini":
        return {"error": {"code": status, "message": message, "status": kind or "UNKNOWN"}}
    return {"error": {"message": message, "type": kind or "server_error", "param": None, "code": kind}}


def error_event(wire: Wire, kind: str) -> bytes:
    """An error in the midst of a stream."""
    if wire == "messages":
        return _named("error", error(wire, 0, kind, kind))
    if wire == "responses":
        return _named("error", {"type": "error", "code": kind, "message": kind, "param": None, "sequence_number": 99})
    return _data(error(wire, 500, kind, kind))


def pieces_of(text: str, count: int) -> list[str]:
    """The text in at most so many pieces; none of an empty one."""
    size = max(1, -(-len(text) // max(1, count)))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _named(event: str, value: dict[str, Any]) -> bytes:
    return b"event: " + event.encode() + b"\n" + _data(value)


# --- OpenAI: chat completions


def _chat_finish(step: Say) -> str:
    if step.stop != "stop":
        return {"length": "length", "refusal": "content_filter"}[step.stop]
    return "tool_calls" if step.tools else "stop"


def _chat_usage(step: Say) -> dict[str, int]:
    return {
        "prompt_tokens": step.input_tokens,
        "completion_tokens": step.output_tokens,
        "total_tokens": step.input_tokens + step.output_tokens,
    }


def _chat(step: Say, body: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": step.text or None, "refusal": None}
    if step.tools:
        said["tool_calls"] = [
            {"id": f"call_{at}", "type": "function", "function": {"name": tool.name, "arguments": tool.text}}
            for at, tool in enumerate(step.tools)
        ]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": _AT,
        "model": body["model"],
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": _chat_finish(step)}],
        "usage": _chat_usage(step),
    }


def _chat_events(step: Say, body: dict[str, Any]) -> list[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data(head | {"choices": [choice]})

    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": _AT, "model": body["model"]}
    made = [chunk({"role": "assistant", "content": ""})]
    made += [chunk({"content": piece}) for piece in pieces_of(step.text, step.pieces)]
    for at, tool in enumerate(step.tools):
        function = {"name": tool.name, "arguments": ""}
        made.append(
            chunk({"tool_calls": [{"index": at, "id": f"call_{at}", "type": "function", "function": function}]})
        )
        made += [
            chunk({"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
            for piece in pieces_of(tool.text, step.pieces)
        ]
    made.append(chunk({}, _chat_finish(step)))
    if (body.get("stream_options") or {}).get("include_usage"):
        made.append(_data(head | {"choices": [], "usage": _chat_usage(step)}))
    return [*made, b"data: [DONE]\n\n"]


# --- OpenAI: responses


def _response_items(step: Say) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if step.text:
        part = {"type": "output_text", "text": step.text, "annotations": []}
        items.append({"type": "message", "id": "msg_0", "status": "completed", "role": "assistant", "content": [part]})
    for at, tool in enumerate(step.tools):
        call = {
            "type": "function_call",
            "id": f"fc_{at}",
            "call_id": f"call_{at}",
            "name": tool.name,
            "arguments": tool.text,
            "status": "completed",
        }
        items.append(call if tool.namespace is None else call | {"namespace": tool.namespace})
    return items


def _response(step: Say, body: dict[str, Any]) -> dict[str, Any]:
    cut = step.stop == "length"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": _AT,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "error": None,
        "instructions": None,
        "metadata": {},
        "model": body["model"],
        "output": _response_items(step),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": step.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": step.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": step.input_tokens + step.output_tokens,
        },
    }


def _response_events(step: Say, body: dict[str, Any]) -> list[bytes]:
    finished = _response(step, body)
    begun = finished | {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    made: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
    ]
    for at, item in enumerate(finished["output"]):
        made += _item_events(at, item, step.pieces)
    made.append((f"response.{finished['status']}", {"response": finished}))
    return [_named(kind, {"type": kind, "sequence_number": number, **more}) for number, (kind, more) in enumerate(made)]


def _item_events(at: int, item: dict[str, Any], count: int) -> list[tuple[str, dict[str, Any]]]:
    place = {"item_id": item["id"], "output_index": at}
    if item["type"] == "function_call":
        begun = item | {"arguments": "", "status": "in_progress"}
        pieces = pieces_of(item["arguments"], count)
        inner = [("response.function_call_arguments.delta", place | {"delta": piece}) for piece in pieces]
        inner.append(("response.function_call_arguments.done", place | {"arguments": item["arguments"]}))
    else:
        begun = item | {"content": [], "status": "in_progress"}
        part = item["content"][0]
        spot = place | {"content_index": 0}
        inner = [("response.content_part.added", spot | {"part": part | {"text": ""}})]
        inner += [
            ("response.output_text.delta", spot | {"delta": piece, "logprobs": []})
            for piece in pieces_of(part["text"], count)
        ]
        inner.append(("response.output_text.done", spot | {"text": part["text"], "logprobs": []}))
        inner.append(("response.content_part.done", spot | {"part": part}))
    added = ("response.output_item.added", {"output_index": at, "item": begun})
    return [added, *inner, ("response.output_item.done", {"output_index": at, "item": item})]


# --- Anthropic: messages


def _message_stop(step: Say) -> str:
    if step.stop != "stop":
        return {"length": "max_tokens", "refusal": "refusal"}[step.stop]
    return "tool_use" if step.tools else "end_turn"


def _tool_use(at: int, tool: Tool, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{at}", "name": tool.name, "input": given}


def _message(step: Say, body: dict[str, Any]) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": step.text}] if step.text else []
    content += [_tool_use(at, tool, tool.arguments) for at, tool in enumerate(step.tools)]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": _message_stop(step),
        "stop_sequence": None,
        "usage": {
            "input_tokens": step.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": step.output_tokens,
        },
    }


def _message_events(step: Say, body: dict[str, Any]) -> list[bytes]:
    finished = _message(step, body)
    begun = finished | {"content": [], "stop_reason": None, "usage": finished["usage"] | {"output_tokens": 1}}
    made: list[tuple[str, dict[str, Any]]] = [("message_start", {"message": begun}), ("ping", {})]
    at = 0
    if step.text:
        made.append(("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}))
        for piece in pieces_of(step.text, step.pieces):
            made.append(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}}))
        made.append(("content_block_stop", {"index": 0}))
        at = 1
    for number, tool in enumerate(step.tools):
        made.append(
            ("content_block_start", {"index": at + number, "content_block": _tool_use(number, tool, {})}),
        )
        for piece in pieces_of(tool.text, step.pieces):
            delta = {"type": "input_json_delta", "partial_json": piece}
            made.append(("content_block_delta", {"index": at + number, "delta": delta}))
        made.append(("content_block_stop", {"index": at + number}))
    ended = {"stop_reason": _message_stop(step), "stop_sequence": None}
    made.append(("message_delta", {"delta": ended, "usage": {"output_tokens": step.output_tokens}}))
    made.append(("message_stop", {}))
    return [_named(kind, {"type": kind, **more}) for kind, more in made]


# --- Gemini: generateContent


def _gemini_reply(parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    return {"candidates": [candidate if finish is None else candidate | {"finishReason": finish}], "modelVersion": "g"}


def _gemini_end(step: Say) -> tuple[str, dict[str, Any]]:
    usage = {
        "promptTokenCount": step.input_tokens,
        "candidatesTokenCount": step.output_tokens,
        "totalTokenCount": step.input_tokens + step.output_tokens,
    }
    return {"stop": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"}[step.stop], {"usageMetadata": usage}


def _gemini_calls(step: Say) -> list[dict[str, Any]]:
    return [
        {"functionCall": {"name": tool.name, "args": tool.arguments}, "thoughtSignature": "dGhvdWdodA=="}
        for tool in step.tools
    ]


def _gemini(step: Say, _body: dict[str, Any]) -> dict[str, Any]:
    finish, usage = _gemini_end(step)
    texts = [{"text": step.text}] if step.text else []
    return _gemini_reply(texts + _gemini_calls(step), finish) | usage


def _gemini_events(step: Say, _body: dict[str, Any]) -> list[bytes]:
    finish, usage = _gemini_end(step)
    made = [_gemini_reply([{"text": piece}], None) for piece in pieces_of(step.text, step.pieces)]
    made += [_gemini_reply([call], None) for call in _gemini_calls(step)]
    return [_data(reply) for reply in [*made, _gemini_reply([], finish) | usage]]
