"""`agent.execute`: a shell task in a sandbox, or, without a task, the answer that the agent is there."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from vespid_agent.backends import Backends
from vespid_agent.sandbox.quota import Quota
from vespid_agent.sandbox.task import (
    Backend,
    Network,
    ProcessMark,
    QuotaExceeded,
    SandboxError,
    Shell,
    ShellTask,
    Stream,
    TaskResult,
)
from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.settings import AgentSettings
from vespid_agent.work.job import Job, Outcome, WorkFailed, identity
from vespid_agent.work.output import OutputEvents
from vespid_agent.work.passthrough import Passthrough
from vespid_protocol.codes import Code
from vespid_protocol.frames import Execute
from vespid_runtime.secrets import SecretMissing, fill_secrets_text, secret_ids

KIND = "agent.execute"


class _Part(msgspec.Struct, rename="camel", frozen=True):
    pass


class _Task(_Part, frozen=True):
    script: str
    type: Literal["shell"] = "shell"
    shell: Shell = "sh"
    env: dict[str, str] = {}


class _Docker(_Part, frozen=True):
    image: str | None = None


class _Sandbox(_Part, frozen=True):
    backend: Literal["docker", "host", "bubblewrap"] | None = None
    network: Network | None = None
    # Another spelling of `network`.
    network_mode: Network | None = None
    timeout_ms: int | None = None
    docker: _Docker | None = None
    env_passthrough_allowlist: tuple[str, ...] = ()
    workdir: Literal["node", "run"] | None = None


class _Config(_Part, frozen=True):
    task: _Task | None = None
    sandbox: _Sandbox = _Sandbox()


class _Node(_Part, frozen=True):
    id: str
    config: _Config = _Config()


class _Tools(_Part, frozen=True):
    shell_secrets_enabled: bool = False


class _OrganizationSettings(_Part, frozen=True):
    tools: _Tools = _Tools()


class Payload(_Part, frozen=True):
    """What `execute.payload` holds for this kind."""

    node: _Node
    node_id: str = ""
    run_id: str = ""
    organization_settings: _OrganizationSettings = _OrganizationSettings()


class _Answer(_Part, frozen=True):
    backend: str
    exit_code: int | None
    timed_out: bool
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    duration_ms: int


_decoder = msgspec.json.Decoder(Payload)


def parse(order: Execute) -> Payload:
    """Raises WorkFailed INVALID_EXECUTE_PAYLOAD, naming the field."""
    try:
        return _decoder.decode(order.payload)
    except msgspec.DecodeError as error:
        raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, str(error)) from None


def instant(payload: Payload) -> Outcome | None:
    """The outcome of a payload that asks for nothing to be done."""
    if payload.node.config.task is not None:
        return None
    return Outcome.of({"accepted": True, "nodeId": payload.node_id or payload.node.id})


class ShellWork:
    """Runs shell tasks on the backends this agent has."""

    def __init__(
        self, settings: AgentSettings, backends: Backends, passthrough: Passthrough, workdirs: Workdirs
    ) -> None:
        self.backends = backends
        self._settings = settings
        self._workdirs = workdirs
        self._quota = Quota(settings.workdir_quota_mb)
        self._passthrough = passthrough

    async def run(self, payload: Payload, job: Job) -> Outcome:
        """Raises WorkFailed."""
        name = payload.node.config.sandbox.backend or self.backends.default
        backend = self.backends.found.get(name)
        if backend is None:
            raise WorkFailed(f"{Code.SANDBOX_UNAVAILABLE}:{name}", self.backends.why_missing(name))
        events = OutputEvents(job.emit)
        run_id = payload.run_id or job.order.request_id.partition(":")[0]
        with self._workdirs.use(run_id):
            try:
                task = await self._task(payload, job, run_id, name)
                result = await self._kept(backend, task, job, events)
            except QuotaExceeded as error:
                output = msgspec.UNSET if error.result is None else _answer(name, error.result)
                raise WorkFailed(error.code, error.message, output) from None
            except SandboxError as error:
                raise WorkFailed(error.code, error.message) from None
            finally:
                events.close()
        return _outcome(name, result)

    async def _kept(self, backend: Backend, task: ShellTask, job: Job, events: OutputEvents) -> TaskResult:
        """Run within the quota. Raises SandboxError."""
        begun: ProcessMark | None = None

        def on_output(stream: Stream, text: str, offset: int) -> None:
            events.add(stream, text, offset)

        async def started(mark: ProcessMark) -> None:
            nonlocal begun
            await job.mark(msgspec.json.encode(mark).decode())
            begun = mark

        async def root() -> int | None:
            return None if begun is None else await backend.root_of(begun, task.workdir)

        return await self._quota.keep(task, lambda task: backend.run(task, on_output, started), root)

    async def _task(self, payload: Payload, job: Job, run_id: str, backend: str) -> ShellTask:
        config, settings = payload.node.config, self._settings
        assert config.task is not None
        sandbox = config.sandbox
        script, env = self._filled(config.task, payload, job)
        passed = self._passed(sandbox.env_passthrough_allowlist, job)
        sandboxed = backend != "host"
        limit = sandbox.timeout_ms or (settings.docker_timeout_ms if sandboxed else job.remaining_ms)
        shared = sandbox.workdir == "run"
        workdir = await asyncio.to_thread(self._workdirs.open, run_id, None if shared else payload.node.id)
        return ShellTask(
            request_id=job.order.request_id,
            run_id=run_id,
            node_id=payload.node.id,
            script=script,
            workdir=workdir,
            shared=shared,
            timeout_ms=min(limit, job.remaining_ms),
            output_max_chars=settings.docker_output_max_chars if sandboxed else settings.host_output_max_chars,
            shell=config.task.shell,
            env={**passed, **env, **identity(job.order)},
            network=sandbox.network or sandbox.network_mode,
            image=sandbox.docker.image if sandbox.docker else None,
            redactor=job.redactor,
        )

    def _passed(self, asked: tuple[str, ...], job: Job) -> dict[str, str]:
        passed = self._passthrough.choose(asked)
        job.mask(passed.secrets)
        if passed.refused:
            names = ", ".join(passed.refused)
            job.emit("log", "warn", f"this agent does not pass these variables: {names}", {"names": passed.refused})
        return passed.variables

    @staticmethod
    def _filled(task: _Task, payload: Payload, job: Job) -> tuple[str, dict[str, str]]:
        """Script and environment with their secrets, where the organization lets shells have any."""
        if not secret_ids([task.script, task.env]):
            return task.script, task.env
        if not payload.organization_settings.tools.shell_secrets_enabled:
            raise WorkFailed(
                Code.SECRET_NOT_ALLOWED_FOR_SHELL,
                "the script names a secret, and the organization's tools.shellSecretsEnabled is off",
            )
        try:
            script = fill_secrets_text(task.script, job.secrets)
            env = {key: fill_secrets_text(value, job.secrets) for key, value in task.env.items()}
        except SecretMissing as missing:
            raise WorkFailed(Code.SECRET_NOT_FOUND, str(missing)) from None
        return script, env


def _answer(backend: str, result: TaskResult) -> object:
    answer = _Answer(
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


def _outcome(backend: str, result: TaskResult) -> Outcome:
    output = _answer(backend, result)
    if result.timed_out:
        return Outcome.failure(
            Code.NODE_EXECUTION_TIMEOUT, f"the task was stopped after {result.duration_ms} ms", output
        )
    if result.exit_code != 0:
        code = Code.DOCKER_EXIT_CODE if backend == "docker" else Code.HOST_EXIT_CODE
        why = "" if result.note is None else f": {result.note}"
        return Outcome.failure(f"{code}:{result.exit_code}", f"the task exited with {result.exit_code}{why}", output)
    return Outcome.of(output)
