"""`sessionConfig` of a `session_open` (`protocol.md` §1.5): what the host is told of how to answer.

An organization's own host brings its own key. A managed one may be given a key, and only the tools that its operator
allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from vespid.domain.selector import Pool
from vespid.domain.session_options import EngineChoice


class Auth(msgspec.Struct, frozen=True, rename="camel"):
    """A key for this one session, in memory only; its repr hides it."""

    api_key: str
    kind: Literal["api_key"] = "api_key"

    def __repr__(self) -> str:
        return "Auth(…)"


class Engine(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    id: str
    model: str | None = None
    provider: str | None = None
    auth_mode: Literal["env", "inline_api_key"]
    auth: Auth | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    system: str | None = None
    instructions: str


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What goes over the wire."""

    engine: Engine
    prompt: Prompt
    tools_allow: Sequence[str]
    limits: msgspec.Raw
    memory_provider: Literal["builtin"] = "builtin"


def session_config(
    engine: EngineChoice,
    *,
    pool: Pool,
    system: str | None,
    instructions: str | None,
    tools_allow: Iterable[str],
    limits: msgspec.Raw,
    managed_tools: Sequence[str],
    api_key: str | None,
) -> SessionConfig:
    """`managed_tools`: patterns of the tools that a managed host may use. `api_key` is for managed hosts only."""
    if pool == "managed":
        allowed = tuple(tool for tool in tools_allow if any(fnmatchcase(tool, pattern) for pattern in managed_tools))
    else:
        allowed, api_key = tuple(tools_allow), None
    return SessionConfig(
        engine=Engine(
            id=engine.id,
            model=engine.model,
            provider=engine.provider,
            auth_mode="env" if api_key is None else "inline_api_key",
            auth=None if api_key is None else Auth(api_key),
        ),
        prompt=Prompt(system=system, instructions=instructions or ""),
        tools_allow=allowed,
        limits=limits,
    )
