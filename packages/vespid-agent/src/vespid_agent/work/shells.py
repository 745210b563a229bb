"""Shell tasks on the sandboxes of this agent: within its limits, streamed, and marked so that none outlives the agent.

Nodes (`agent.execute`) and tools (`shell.run`, skills) differ in what they ask for and in what they make of the
result. All between is here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import msgspec

from vespid_agent.backends import Backends
from vespid_agent.sandbox.quota import Quota
from vespid_agent.sandbox.task import Backend, Network, ProcessMark, SandboxError, ShellTask, Stream, TaskResult
from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.settings import AgentSettings
from vespid_agent.work.output import Emit, OutputEvents
from vespid_protocol.codes import Code

Mark = Callable[[str], Awaitable[None]]


class Docker(msgspec.Struct, frozen=True, rename="camel"):
    image: str | None = None


class Wishes(msgspec.Struct, frozen=True, rename="camel"):
    """`sandbox` of a node's config, and of a skill's manifest."""

    backend: Literal["docker", "host", "bubblewrap"] | None = None
    network: Network | None = None
    # Another spelling of `network`.
    network_mode: Network | None = None
    timeout_ms: int | None = None
    docker: Docker | None = None
    env_passthrough_allowlist: tuple[str, ...] = ()

    @property
    def wanted_network(self) -> Network | None:
        return self.network or self.network_mode

    @property
    def image(self) -> str | None:
        return self.docker.image if self.docker else None


class ShellAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """What is told of a task."""

    backend: str
    exit_code: int | None
    timed_out: bool
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    duration_ms: int

    @classmethod
    def of(cls, backend: str, result: TaskResult) -> object:
        """As a JSON value."""
        answer = cls(
            backend=backend,
            exit_code=result.exit_code,
            timed_out=result.timed_out,
            stdout=result.stdout,
            stderr=result.stderr,
            stdout_truncated=result.stdout_truncated,
            stderr_truncated=result.stderr_truncated,
            duration_ms=result.duration_ms,
        )
        return msgspec.to_builtins(answer)


def exit_code_of(backend: str, result: TaskResult) -> tuple[str, str]:
    """Code and message of a task that ended with another status than 0."""
    code = Code.DOCKER_EXIT_CODE if backend == "docker" else Code.HOST_EXIT_CODE
    why = "" if result.note is None else f": {result.note}"
    return f"{code}:{result.exit_code}", f"the task exited with {result.exit_code}{why}"


class Shells:
    """The sandboxes of this agent, with its limits."""

    def __init__(self, settings: AgentSettings, backends: Backends, workdirs: Workdirs) -> None:
        self.backends = backends
        self.workdirs = workdirs
        self._settings = settings
        self._quota = Quota(settings.workdir_quota_mb)

    def pick(self, asked: str | None) -> Backend:
        """The backend of that name, or the agent's own. Raises SandboxError."""
        name = asked or self.backends.default
        backend = self.backends.found.get(name)
        if backend is None:
            raise SandboxError(f"{Code.SANDBOX_UNAVAILABLE}:{name}", self.backends.why_missing(name))
        return backend

    def timeout_ms(self, backend: Backend, asked: int | None, remaining_ms: int) -> int:
        """What is asked for, else the backend's own limit, and never more than what is left."""
        own = self._settings.docker_timeout_ms if backend.name != "host" else remaining_ms
        return min(asked or own, remaining_ms)

    def output_max_chars(self, backend: Backend) -> int:
        """Of each stream."""
        settings = self._settings
        return settings.host_output_max_chars if backend.name == "host" else settings.docker_output_max_chars

    async def run(
        self, backend: Backend, task: ShellTask, emit: Emit, mark: Mark, told: Mapping[str, object] | None = None
    ) -> TaskResult:
        """`told` goes beside the text in every event of the output. Raises SandboxError, QuotaExceeded."""
        begun: ProcessMark | None = None
        events = OutputEvents(emit, told or {})

        def on_output(stream: Stream, text: str, offset: int) -> None:
            events.add(stream, text, offset)

        async def started(process: ProcessMark) -> None:
            nonlocal begun
            await mark(msgspec.json.encode(process).decode())
            begun = process

        async def root() -> int | None:
            return None if begun is None else await backend.root_of(begun, task.workdir)

        with self.workdirs.use(task.run_id):
            try:
                return await self._quota.keep(task, lambda task: backend.run(task, on_output, started), root)
            finally:
                events.close()
