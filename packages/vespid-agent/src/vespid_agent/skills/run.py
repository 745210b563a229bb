"""Running a skill: its files and its input into the working folder, its entrypoint in the sandbox, its output back.

The one thing to know: everything a skill is given it finds by variables and on its standard input, with the same names
on every backend. The script that sets them is ours; nothing of the model's is in it, only in `input.json`.
"""

from __future__ import annotations

import asyncio
import shlex

import msgspec

from vespid_agent.logs import Logger
from vespid_agent.sandbox.ending import to_the_end
from vespid_agent.sandbox.task import TaskResult
from vespid_agent.skills.copy import FILES, INPUT, Copy, make_copy, remove_copy
from vespid_agent.skills.manifest import BadSkill, Skill
from vespid_agent.tools.sandboxed import Asked, Ran, Sandboxed
from vespid_agent.tools.scope import ToolScope
from vespid_agent.work.passthrough import Passthrough
from vespid_agent.work.shells import exit_code_of
from vespid_protocol.codes import Code
from vespid_runtime.loop.schema import NotJson, read_json
from vespid_runtime.tools.tool import ToolError, ToolUse

# Of the end of stderr, where it is told.
STDERR_TOLD_CHARS = 2_000

# `pwd -W`: the shell of Git for Windows has names of its own for folders, which no other program knows.
_SCRIPT = """\
here=$(pwd -W 2>/dev/null || pwd)
export VESPID_SKILL_DIR="$here/{name}/{files}" VESPID_SKILL_INPUT_PATH="$here/{name}/{input}"
{find}exec {runner} "$VESPID_SKILL_DIR"/{entrypoint} <"$VESPID_SKILL_INPUT_PATH"
"""
# Windows has no `python3`, and elsewhere `python` may be anything.
_FIND_PYTHON = "python=$(command -v python3 || command -v python || echo python3)\n"


class SkillRunner:
    """Runs skills in the sandboxes of this agent."""

    def __init__(self, sandboxed: Sandboxed, passthrough: Passthrough, log: Logger) -> None:
        self._sandboxed = sandboxed
        self._passthrough = passthrough
        self._log = log

    async def run(self, skill: Skill, arguments: dict[str, object], scope: ToolScope, use: ToolUse) -> object:
        """Its output: text, or the JSON value that it printed. Raises ToolError."""
        backend = self._sandboxed.backend(skill.wishes.backend)
        passed = self._passthrough.choose(skill.wishes.env_passthrough_allowlist)
        if passed.refused:
            names = ", ".join(passed.refused)
            scope.emit("log", "warn", f"this agent does not pass these variables: {names}", {"names": passed.refused})
        try:
            document = msgspec.json.encode(arguments)
            copy = await asyncio.to_thread(make_copy, skill.folder, document, scope.workdir)
        except BadSkill as bad:
            raise ToolError(Code.SKILL_BROKEN, str(bad)) from None
        except OSError as error:
            raise ToolError("WORKDIR_UNAVAILABLE", f"the skill's files cannot be copied: {error.strerror}") from None
        try:
            asked = Asked(
                script=_script(skill, copy),
                env={**passed.variables, "VESPID_SKILL_ID": skill.id},
                wishes=skill.wishes,
                hidden=passed.secrets,
            )
            return _output(skill, await self._sandboxed.run(backend, asked, scope, use))
        finally:
            await to_the_end(self._remove(copy))

    async def _remove(self, copy: Copy) -> None:
        try:
            await asyncio.to_thread(remove_copy, copy)
        except OSError as error:
            # It goes with the folder it is in.
            self._log.warning("skill_copy_left", path=str(copy.path), reason=error.strerror or str(error))


def _script(skill: Skill, copy: Copy) -> str:
    runner = {"shell": skill.shell, "node": "node", "python": '"$python"'}[skill.runtime]
    return _SCRIPT.format(
        name=copy.name,
        files=FILES,
        input=INPUT,
        find=_FIND_PYTHON if skill.runtime == "python" else "",
        runner=runner,
        entrypoint=shlex.quote(str(skill.entrypoint)),
    )


def _output(skill: Skill, ran: Ran) -> object:
    """Raises ToolError."""
    result = ran.result
    if result.timed_out:
        message = f"the skill was stopped after {result.duration_ms} ms{_said(result)}"
        raise ToolError(Code.NODE_EXECUTION_TIMEOUT, message)
    if result.exit_code != 0:
        code, message = exit_code_of(ran.backend, result)
        raise ToolError(code, f"{message}{_said(result)}")
    if skill.output_mode == "text":
        return result.stdout
    if result.stdout_truncated:
        message = f"{skill.id} printed more than is kept of an output, so that its JSON cannot be read"
        raise ToolError(Code.SKILL_OUTPUT_INVALID, message)
    try:
        return read_json(result.stdout)
    except NotJson as bad:
        message = f"{skill.id} is to print JSON: {bad}; it printed {result.stdout[:200]!r}"
        raise ToolError(Code.SKILL_OUTPUT_INVALID, message) from None


def _said(result: TaskResult) -> str:
    end = result.stderr[-STDERR_TOLD_CHARS:].strip()
    return f": {end}" if end else ""
