"""`shell.run`: the model has a command run in the sandbox of this agent, where the organization lets it.

The one thing to know: how a command ends is its answer. A status other than 0, and a time that is over, are told and
are no failure of the tool.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vespid_agent.sandbox.task import Shell
from vespid_agent.tools.sandboxed import Asked, Sandboxed
from vespid_agent.tools.scope import ToolScope
from vespid_agent.work.shells import ShellAnswer, Wishes
from vespid_protocol.codes import Code
from vespid_runtime.tools.shell import DESCRIPTION, INPUT_SCHEMA, SHELL
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse


class _Arguments(msgspec.Struct, frozen=True, rename="camel"):
    script: str
    shell: Shell = "sh"
    timeout_ms: int | None = None
    env: dict[str, str] = {}


class ShellTools:
    """A source of one tool."""

    def __init__(self, sandboxed: Sandboxed) -> None:
        self._sandboxed = sandboxed

    def tools(self, scope: ToolScope) -> Sequence[Tool]:
        return (_ShellRun(self._sandboxed, scope),)


class _ShellRun:
    id = SHELL
    description = DESCRIPTION
    input_schema = INPUT_SCHEMA
    secrets: Sequence[str] = ()

    def __init__(self, sandboxed: Sandboxed, scope: ToolScope) -> None:
        self._sandboxed = sandboxed
        self._scope = scope

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        if not self._scope.may_run_shell:
            message = "the organization's setting tools.shellRunEnabled is off"
            raise ToolError(f"{Code.TOOL_POLICY_DENIED}:{SHELL}", message)
        try:
            asked = msgspec.convert(arguments, _Arguments)
        except msgspec.ValidationError as error:
            raise ToolError(Code.INVALID_TOOL_ARGUMENTS, str(error)) from None
        backend = self._sandboxed.backend()
        wanted = Asked(
            script=asked.script, shell=asked.shell, env=asked.env, wishes=Wishes(timeout_ms=asked.timeout_ms)
        )
        ran = await self._sandboxed.run(backend, wanted, self._scope, use)
        return ShellAnswer.of(ran.backend, ran.result)
