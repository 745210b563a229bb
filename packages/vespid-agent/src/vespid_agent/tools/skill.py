"""`skill.<id>`: each skill of this agent as a tool. One that is a document answers its text, the others are run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from vespid_agent.skills.document import Document, file_of, text_of
from vespid_agent.skills.library import Library
from vespid_agent.skills.manifest import BadSkill, Skill
from vespid_agent.skills.run import SkillRunner
from vespid_agent.tools.scope import ToolScope
from vespid_protocol.codes import Code
from vespid_runtime.loop.schema import problems
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse

PREFIX = "skill."
DOCUMENT_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "file": {
            "type": "string",
            "description": "A file beside the instructions, by its path from them. Without it, the instructions.",
        }
    },
    "additionalProperties": False,
}


class SkillTools:
    """The source. Every request looks whether files have changed; so does the agent, every few seconds."""

    def __init__(self, library: Library, runner: SkillRunner) -> None:
        self._library = library
        self._runner = runner

    async def start(self) -> None:
        """Look for the first time."""
        await asyncio.to_thread(self._library.refresh)

    async def stop(self) -> None:
        """Nothing is held between calls."""

    async def changed(self) -> bool:
        """Look again: whether there are others now, or other problems."""
        return await asyncio.to_thread(self._library.refresh)

    @property
    def problems(self) -> Mapping[str, str]:
        """By id, of those that are no tools because something is wrong with them."""
        return self._library.problems

    @property
    def offered(self) -> Sequence[tuple[str, str, dict[str, object]]]:
        """Id, description and schema of each."""
        return [(PREFIX + skill.id, _description(skill), _schema(skill)) for skill in self._library.skills]

    def tools(self, scope: ToolScope) -> Sequence[Tool]:
        self._library.refresh()
        return [self._tool(skill, scope) for skill in self._library.skills]

    def _tool(self, skill: Skill | Document, scope: ToolScope) -> Tool:
        return _DocumentTool(skill) if isinstance(skill, Document) else _SkillTool(skill, self._runner, scope)


def _description(skill: Skill | Document) -> str:
    if isinstance(skill, Document):
        return f"Instructions to read, {skill.name}: {skill.description}"
    return skill.description


def _schema(skill: Skill | Document) -> dict[str, object]:
    return DOCUMENT_SCHEMA if isinstance(skill, Document) else skill.input_schema


class _SkillTool:
    secrets: Sequence[str] = ()

    def __init__(self, skill: Skill, runner: SkillRunner, scope: ToolScope) -> None:
        self.id = PREFIX + skill.id
        self.description = _description(skill)
        self.input_schema = _schema(skill)
        self._skill = skill
        self._runner = runner
        self._scope = scope

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        wrong = problems(arguments, self.input_schema)
        if wrong:
            raise ToolError(Code.INVALID_TOOL_ARGUMENTS, "; ".join(wrong))
        return await self._runner.run(self._skill, arguments, self._scope, use)


class _DocumentTool:
    secrets: Sequence[str] = ()

    def __init__(self, document: Document) -> None:
        self.id = PREFIX + document.id
        self.description = _description(document)
        self.input_schema = _schema(document)
        self._document = document

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        file = arguments.get("file")
        try:
            if isinstance(file, str):
                return await asyncio.to_thread(file_of, self._document, file)
            return await asyncio.to_thread(text_of, self._document)
        except BadSkill as bad:
            raise ToolError(Code.INVALID_TOOL_ARGUMENTS if file else Code.SKILL_BROKEN, str(bad)) from None
