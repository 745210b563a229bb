"""The engines there are, and the spellings under which people know them. The one table of both."""

from __future__ import annotations

LOOP = "vespid.loop.v1"
CLAUDE = "claude.agent-sdk.v1"
CODEX = "codex.sdk.v1"
ECHO = "vespid.echo.v1"

ENGINES = (LOOP, CLAUDE, CODEX, ECHO)
SPELLINGS = {"gateway.loop.v2": LOOP, "gateway.claude.v2": CLAUDE, "gateway.codex.v2": CODEX}


def canonical_engine(engine_id: str) -> str | None:
    """The engine's one name, or None: there is no such engine."""
    name = SPELLINGS.get(engine_id, engine_id)
    return name if name in ENGINES else None
