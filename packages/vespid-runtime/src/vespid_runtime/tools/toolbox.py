"""The tools of one turn, and the calling of them: within their time, masked, and never raising.

The one thing to know: a tool's fault is an answer. Whatever a tool raises, the model is told in words beginning with a
code, and the turn goes on; only being cancelled gets through.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from vespid_protocol.codes import Code
from vespid_protocol.text import clean_text
from vespid_runtime.loop.task import Tool as ToolInfo
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse

# What of an answer is looked at; the loop keeps far less of it.
ANSWER_MAX_CHARS = 1_000_000

_log = logging.getLogger("vespid.tools")


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What the model is told: text, of JSON where the tool answered JSON."""

    content: str
    is_error: bool = False


class Toolbox:
    """Tools by their ids; of two with one id the first stays."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self._tools.setdefault(tool.id, tool)
        secrets = [secret for tool in self._tools.values() for secret in tool.secrets]
        self._redactor = Redactor(secrets) if secrets else None

    @property
    def infos(self) -> tuple[ToolInfo, ...]:
        """For the loop's task."""
        return tuple(
            ToolInfo(id=tool.id, description=tool.description, input_schema=tool.input_schema)
            for tool in self._tools.values()
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be seen in nothing that leaves, whoever says it."""
        return tuple(secret for tool in self._tools.values() for secret in tool.secrets)

    def __contains__(self, tool_id: str) -> bool:
        return tool_id in self._tools

    async def call(self, tool_id: str, arguments: dict[str, object], use: ToolUse) -> ToolAnswer:
        """Raises nothing but asyncio.CancelledError."""
        tool = self._tools.get(tool_id)
        if tool is None:
            return ToolAnswer(f"UNKNOWN_TOOL: there is no tool {tool_id[:128]} here", is_error=True)
        try:
            async with asyncio.timeout(use.timeout_ms / 1000) as limit:
                answer = _text(await tool.call(arguments, use))
        except ToolError as failed:
            return self._failure(failed.code, failed.message)
        except TimeoutError:
            if limit.expired():
                return self._failure(Code.NODE_EXECUTION_TIMEOUT, f"no answer within {use.timeout_ms} ms")
            return self._failure(Code.NODE_EXECUTION_FAILED, "the tool gave up waiting for something")
        except Exception as fault:  # noqa: BLE001  (a fault of one tool must not end the turn)
            # Only its kind is told and logged: its text may quote what it was given.
            _log.error("tool_raised", extra={"tool": tool_id, "error": type(fault).__name__})
            return self._failure(Code.NODE_EXECUTION_FAILED, f"the tool raised {type(fault).__name__}")
        return ToolAnswer(self._masked(answer))

    def _failure(self, code: str, message: str) -> ToolAnswer:
        return ToolAnswer(self._masked(f"{code}: {message}"), is_error=True)

    def _masked(self, text: str) -> str:
        """Masked before it is cut, or a secret at the edge would show its beginning."""
        if self._redactor is not None:
            text = self._redactor.redact(text)
        if len(text) <= ANSWER_MAX_CHARS:
            return text
        return f"{text[:ANSWER_MAX_CHARS]}\n[... {len(text) - ANSWER_MAX_CHARS} characters more were cut here ...]"


def _text(answer: object) -> str:
    text = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
    return clean_text(text)[0]
