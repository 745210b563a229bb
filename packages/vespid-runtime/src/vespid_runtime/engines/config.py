"""A session's configuration as its engine sees it: `sessionConfig` of the protocol, typed.

The one thing to know: `engine.auth` may hold a key. It is for memory alone, and no `repr` shows it.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

# An absent limit is the engine's own affair.
Limit: TypeAlias = Annotated[int, Meta(ge=1)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Auth(_Part, frozen=True, kw_only=True):
    """An inline key: only managed executors get one."""

    kind: Literal["api_key"]
    api_key: str

    def __repr__(self) -> str:
        return f"Auth(kind={self.kind!r})"


class EngineChoice(_Part, frozen=True, kw_only=True):
    """Which engine answers, with which model, and where its key comes from."""

    id: str
    model: str | None = None
    provider: str | None = None
    auth_mode: Literal["env", "inline_api_key"] = "env"
    auth: Auth | None = None


class Prompt(_Part, frozen=True, kw_only=True):
    """What the engine is told before the conversation."""

    system: str | None = None
    instructions: str = ""


class Limits(_Part, frozen=True, kw_only=True):
    """Of one turn. None: the engine's default."""

    max_turns: Limit | None = None
    max_tool_calls: Annotated[int, Meta(ge=0)] | None = None
    timeout_ms: Limit | None = None
    # Of the answer.
    max_output_chars: Limit | None = None
    # Of everything the model is given and gives.
    max_runtime_chars: Limit | None = None


class Output(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """What the answer has to be."""

    mode: Literal["text", "json"] = "text"
    # None: any JSON.
    json_schema: dict[str, object] | bool | None = None


class SessionConfig(_Part, frozen=True, kw_only=True):
    """Of one session, the same for all its turns until it is opened anew."""

    engine: EngineChoice
    prompt: Prompt = Prompt()
    # Tool ids; `memory.*` stands for every tool of the kind.
    tools_allow: tuple[str, ...] = ()
    limits: Limits = Limits()
    memory_provider: str = "builtin"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be seen in nothing that leaves."""
        return (self.engine.auth.api_key,) if self.engine.auth is not None else ()


_decoder = msgspec.json.Decoder(SessionConfig)


def decode_config(document: bytes | msgspec.Raw) -> SessionConfig:
    """Raises msgspec.ValidationError, naming the field and never a value."""
    return _decoder.decode(document)
