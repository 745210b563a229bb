"""What a language model is asked and what it answers, in words that belong to no provider.

    reply = await model.infer(request)             # ModelReply
    async for piece in model.stream(request): ...  # TextDelta | ToolCallDelta | ToolCall | Done
    # both raise ModelError

These structs are also the JSON of the engine-runner. The one thing to know: `ModelRequest.auth` holds a key. It is for
memory alone, and no `repr` shows it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from vespid_protocol.codes import Code, is_retryable


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class ToolCall(_Part, frozen=True, kw_only=True, tag_field="type", tag="toolCall"):
    """The model wants a tool called. In a stream: the whole call, after its deltas."""

    # Unique within the conversation; the result names it.
    id: str
    name: str
    # JSON text as the model wrote it: it may be no object, or no JSON at all. Whoever runs the tool parses it.
    arguments: str
    # What the provider wants back with the call when the conversation goes on, and nobody else understands.
    opaque: str | None = None


class System(_Part, frozen=True, kw_only=True, tag_field="role", tag="system"):
    content: str


class User(_Part, frozen=True, kw_only=True, tag_field="role", tag="user"):
    content: str


class Assistant(_Part, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model said: text, calls of tools, or both."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class ToolResult(_Part, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """What a tool answered. The results of one assistant message follow it directly, one for each call."""

    call_id: str
    content: str
    is_error: bool = False


Message: TypeAlias = System | User | Assistant | ToolResult


class ToolSpec(_Part, frozen=True, kw_only=True):
    """A tool that the model may call."""

    # What every provider takes: letters, digits, `_` and `-`. Tool ids with dots are spelled otherwise by the caller.
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    # JSON Schema of an object.
    input_schema: dict[str, object] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})


class ModelAuth(_Part, frozen=True, kw_only=True):
    """A key for the provider."""

    kind: Literal["api_key"] = "api_key"
    api_key: str

    def __repr__(self) -> str:
        return f"ModelAuth(kind={self.kind!r})"


class ModelRequest(_Part, frozen=True, kw_only=True):
    """One call of a model."""

    # As in `registry.py`.
    provider: Annotated[str, Meta(min_length=1, max_length=64)]
    model: Annotated[str, Meta(min_length=1, max_length=200)]
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    tools: tuple[ToolSpec, ...] = ()
    # None: the provider's own address, or the one this process is configured with.
    base_url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None
    # For the whole call with its retries, and of a stream to its end.
    timeout_ms: Annotated[int, Meta(ge=1, le=600_000)] = 30_000
    # Of the answer's text; what is longer is cut there, and the stop reason is `length`.
    max_output_chars: Annotated[int, Meta(ge=1)] | None = None
    # None: the key this process is configured with, if any.
    auth: ModelAuth | None = None


class Usage(_Part, frozen=True, kw_only=True):
    """Tokens, as the provider counts them; zeros where it does not say."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


# stop: it has said what it wanted. tool_calls: it waits for results. length: it was cut. refusal: it will not answer.
StopReason: TypeAlias = Literal["stop", "tool_calls", "length", "refusal"]


class ModelReply(_Part, frozen=True, kw_only=True):
    """The whole answer."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    stop_reason: StopReason = "stop"
    usage: Usage = Usage(input_tokens=0, output_tokens=0, total_tokens=0)

    @property
    def message(self) -> Assistant:
        """The answer as the conversation's next message."""
        return Assistant(content=self.content, tool_calls=self.tool_calls)


class TextDelta(_Part, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """The next piece of the answer's text."""

    text: str


class ToolCallDelta(_Part, frozen=True, kw_only=True, tag_field="type", tag="toolCallDelta"):
    """The next piece of a call's arguments; the first one of a call may be empty."""

    id: str
    name: str
    arguments: str


class Done(_Part, frozen=True, kw_only=True, tag_field="type", tag="done"):
    """The last piece of every stream that did not fail: the whole answer."""

    reply: ModelReply


Piece: TypeAlias = TextDelta | ToolCallDelta | ToolCall | Done


class ModelError(Exception):
    """The call failed, with a code of the contract. The message is for people and holds no key."""

    def __init__(self, code: str, message: str, *, retryable: bool | None = None, retry_after_ms: int | None = None):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        # Whether the same call can succeed later.
        self.retryable = is_retryable(code) if retryable is None else retryable
        # What the provider asked to wait.
        self.retry_after_ms = retry_after_ms


def request_failed(
    provider: str, detail: int | str, message: str, *, retryable: bool | None = None, retry_after_ms: int | None = None
) -> ModelError:
    """`<PROVIDER>_REQUEST_FAILED:<status>`; where there was no answer, the detail says why (`NETWORK`)."""
    code = f"{provider.upper().replace('-', '_')}_REQUEST_FAILED:{detail}"
    return ModelError(code, message, retryable=retryable, retry_after_ms=retry_after_ms)


def timed_out(message: str) -> ModelError:
    return ModelError(Code.LLM_TIMEOUT, message)


class Model(Protocol):
    """Something that answers requests: a provider in this process, or the engine-runner over HTTP."""

    async def infer(self, request: ModelRequest) -> ModelReply:
        """Raises ModelError. Cancelling it ends the provider's call."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """The same in pieces, the last of which is `Done`. Closing it ends the provider's call."""
        ...
