"""The tools of one turn, and the calling of them: within their time, masked, and never raising.

The one thing to know: a tool's fault is an answer. Whatever a tool raises or answers, and even if it never ends, the
model is told in words beginning with a code, and the turn goes on; only being cancelled gets through.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from vespid_protocol.codes import Code
from vespid_protocol.text import clean_json, clean_text
from vespid_runtime.loop.task import Tool as ToolInfo
from vespid_runtime.redaction import Redactor
from vespid_runtime.stopping import stop
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
        self._redactor = Redactor(self.secrets)

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
        answers: list[ToolAnswer] = []
        # A task of its own: it may not end when it is told to, or end as if it had been told to.
        work = asyncio.create_task(self._work(tool, arguments, use, answers), name=f"tool {tool_id} {use.key}")
        try:
            await asyncio.wait((work,), timeout=use.timeout_ms / 1000)
            is_late = not work.done()
        finally:
            await stop((work,))
        if is_late:
            return self._failure(Code.NODE_EXECUTION_TIMEOUT, f"no answer within {use.timeout_ms} ms")
        return answers[0] if answers else self._failure(Code.NODE_EXECUTION_CANCELLED, "the tool stopped by itself")

    async def _work(self, tool: Tool, arguments: dict[str, object], use: ToolUse, answers: list[ToolAnswer]) -> None:
        try:
            answers.append(self._answer(await tool.call(arguments, use)))
        except ToolError as failed:
            answers.append(self._failure(failed.code, failed.message))
        except TimeoutError:
            answers.append(self._failure(Code.NODE_EXECUTION_FAILED, "the tool gave up waiting for something"))
        # A fault of one tool must not end the turn, nor the process.
        except (Exception, SystemExit) as fault:  # noqa: BLE001
            # Only its kind is told and logged: its text may quote what it was given.
            _log.error("tool_raised", extra={"tool": tool.id, "error": type(fault).__name__})
            answers.append(self._failure(Code.NODE_EXECUTION_FAILED, f"the tool raised {type(fault).__name__}"))

    def _answer(self, answer: object) -> ToolAnswer:
        try:
            return ToolAnswer(self._shown(_text(answer)))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return self._failure(
                Code.NODE_EXECUTION_FAILED, f"the tool answered something that is not JSON ({type(error).__name__})"
            )

    def _failure(self, code: str, message: str) -> ToolAnswer:
        return ToolAnswer(self._shown(clean_text(f"{code}: {message}")[0]), is_error=True)

    def _shown(self, text: str) -> str:
        """Masked and cut. What may be the beginning of a secret at the cut is left out with the rest."""
        if len(text) <= ANSWER_MAX_CHARS:
            return self._redactor.redact(text)
        begin = self._redactor.stream().feed(text[:ANSWER_MAX_CHARS])
        return f"{begin}\n[... the answer has {len(text)} characters and was cut here ...]"


def _text(answer: object) -> str:
    """Raises what the encoders do where the answer is not JSON."""
    if isinstance(answer, str):
        return clean_text(answer)[0]
    try:
        return msgspec.json.encode(answer).decode()
    except UnicodeEncodeError:  # half a surrogate pair somewhere within, as JSON from outside may have it
        return clean_json(json.dumps(answer).encode())[0].decode()
