"""A program of the user's own: found, started, read line by line, and ended with all that it started.

It runs as a task of the host backend does, so whatever ends the turn or this agent ends the program's whole tree: see
`docs/sandboxes.md`. The one thing to know: what it is told goes in by its standard input and by files in a folder that
only this user can read, and keys go in by its environment. Its command line, which everybody sees, says nothing.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.task import ProcessMark, SandboxError, ShellTask, Stream
from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineError

# Of all that a turn may print. Nothing of it is kept here.
STDOUT_MAX_CHARS = 1_000_000_000
# Head and tail of what it complains of.
STDERR_MAX_CHARS = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One run of the program."""

    arguments: tuple[str, ...]
    # All of it, but for what every task of the host gets (PATH, HOME, LANG and the like).
    env: Mapping[str, str] = field(repr=False)
    workdir: Path
    # On its standard input.
    prompt: str = ""
    timeout_ms: int
    # Once it is done the program is ended.
    halt: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of it runs any more."""

    # None: its time was over.
    exit_code: int | None
    stderr: str
    # It printed more than is read.
    is_cut: bool = False


class Cli:
    """`name` in PATH, or what `variable` names."""

    def __init__(
        self, name: str, variable: str, path: Path | None, environment: Mapping[str, str], kill_grace_ms: int
    ) -> None:
        """`environment`: the agent's own, as it was started."""
        self.name = name
        self.environment = environment
        self._variable = variable
        self._path = path
        self._backend = HostBackend(kill_grace_ms=kill_grace_ms)

    def find(self) -> Path:
        """Raises EngineError EXECUTOR_CLI_NOT_FOUND, with what to do. Blocks on the disk."""
        if self._path is not None:
            if self._path.is_file() and os.access(self._path, os.X_OK):
                return self._path
            raise EngineError(
                Code.EXECUTOR_CLI_NOT_FOUND, f"{self._variable} names {self._path}, and there is no program there"
            )
        found = shutil.which(self.name, path=self.environment.get("PATH"))
        if found is None:
            raise EngineError(
                Code.EXECUTOR_CLI_NOT_FOUND,
                f"there is no `{self.name}` in the agent's PATH; install it, or name it in {self._variable}",
            )
        return Path(os.path.abspath(found))

    async def run(self, start: Start, take: Callable[[str], None]) -> Ended:
        """`take` is given what it prints, piece by piece, on the loop.

        Returns, raises or is cancelled when nothing of it runs any more. Raises EngineError where it cannot be started.
        """
        program = await asyncio.to_thread(self.find)

        def on_output(stream: Stream, text: str, _: int) -> None:
            if stream == "stdout":
                take(text)

        task = ShellTask(
            request_id=self.name,
            run_id="",
            node_id="",
            script=_script((str(program), *start.arguments), start.prompt),
            workdir=start.workdir,
            timeout_ms=start.timeout_ms,
            output_max_chars=STDERR_MAX_CHARS,
            streamed_max_chars=STDOUT_MAX_CHARS,
            env=start.env,
            halt=start.halt,
        )
        try:
            result = await self._backend.run(task, on_output, _started)
        except SandboxError as error:
            raise EngineError(Code.EXECUTOR_CLI_FAILED, f"{self.name} cannot be run: {error.message}") from error
        return Ended(None if result.timed_out else result.exit_code, result.stderr.strip(), result.stdout_truncated)


async def _started(_: ProcessMark) -> None:
    """Not journaled: whatever keeps the program's tree sees this agent die, and ends it."""


def _script(argv: tuple[str, ...], prompt: str) -> str:
    """For a shell that becomes the program at once. Whoever wrote the prompt does not know the mark of its end."""
    mark = f"END-{secrets.token_hex(16)}"
    command = " ".join(shlex.quote(word) for word in argv)
    return f"exec {command} <<'{mark}'\n{prompt.replace(chr(0), chr(0xFFFD))}\n{mark}\n"
