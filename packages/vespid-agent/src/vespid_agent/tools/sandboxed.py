"""A tool's work in a sandbox: in the folder of its request, beside whatever else the request has at work there.

The one thing to know: a call's time is a little less than its caller grants, so that what a task has put out by then is
an answer, and not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vespid_agent.sandbox.task import Backend, QuotaExceeded, SandboxError, Shell, ShellTask, TaskResult
from vespid_agent.tools.scope import ToolScope
from vespid_agent.work.shells import Shells, Wishes
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.tool import ToolError, ToolUse

# Kept back from the caller's time, for ending the task and telling.
_ENDING_MS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one call wants run."""

    script: str
    shell: Shell = "sh"
    env: Mapping[str, str] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)
    # Values that its output must not show, beside those of the request.
    hidden: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended, on which backend."""

    backend: str
    result: TaskResult


class Sandboxed:
    """Runs what the tools of requests ask for."""

    def __init__(self, shells: Shells, hidden: Callable[[], Iterable[str]] = tuple) -> None:
        """`hidden`: what this agent knows and no output may show, beside the secrets of the request."""
        self._shells = shells
        self._hidden = hidden

    def backend(self, asked: str | None = None) -> Backend:
        """Raises ToolError."""
        try:
            return self._shells.pick(asked)
        except SandboxError as error:
            raise ToolError(error.code, error.message) from None

    async def run(self, backend: Backend, asked: Asked, scope: ToolScope, use: ToolUse) -> Ran:
        """Nothing of it is left when this is over. Raises ToolError."""
        granted = max(use.timeout_ms - _ENDING_MS, use.timeout_ms // 2)
        task = ShellTask(
            request_id=scope.request_id,
            run_id=scope.run_id,
            node_id=scope.node_id,
            script=asked.script,
            workdir=scope.workdir,
            # Other calls of the same request may be at work there.
            shared=True,
            timeout_ms=self._shells.timeout_ms(backend, asked.wishes.timeout_ms, granted),
            output_max_chars=self._shells.output_max_chars(backend),
            shell=asked.shell,
            env={**asked.env, "VESPID_IDEMPOTENCY_KEY": use.key, "VESPID_REQUEST_ID": scope.request_id},
            network=asked.wishes.wanted_network,
            image=asked.wishes.image,
            redactor=Redactor([*scope.secrets.values(), *self._hidden(), *asked.hidden]),
        )

        async def mark(process: str) -> None:
            await scope.mark(use.key, process)

        try:
            return Ran(backend.name, await self._shells.run(backend, task, scope.emit, mark, {"n": use.n}))
        except QuotaExceeded as error:
            said = "" if error.result is None else f"; it had put out: {error.result.stdout[-1000:]}"
            raise ToolError(error.code, f"{error.message}{said}") from None
        except SandboxError as error:
            raise ToolError(error.code, error.message) from None
        finally:
            await scope.mark(use.key, "")
