"""`agent.execute`: a shell task in a sandbox, or, without a task, the answer that the agent is there."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Literal

import msgspec

from vespid_agent.backends import Backends
from vespid_agent.sandbox.task import Backend, QuotaExceeded, SandboxError, Shell, ShellTask, TaskResult
from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.settings import AgentSettings
from vespid_agent.work.job import Job, Outcome, WorkFailed, identity
from vespid_agent.work.passthrough import Passthrough
from vespid_agent.work.shells import ShellAnswer, Shells, Wishes, exit_code_of
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


class _Sandbox(Wishes, frozen=True):
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
        # For whatever else runs in a sandbox: one quota, and one set of backends.
        self.shells = Shells(settings, backends, workdirs)
        self._passthrough = passthrough

    async def run(self, payload: Payload, job: Job) -> Outcome:
        """Raises WorkFailed."""
        run_id = payload.run_id or job.order.request_id.partition(":")[0]
        try:
            backend = self.shells.pick(payload.node.config.sandbox.backend)
            with self.shells.workdirs.use(run_id):
                task = await self._task(payload, job, run_id, backend)
                result = await self.shells.run(backend, task, job.emit, partial(job.mark, "task"))
        except QuotaExceeded as error:
            output = msgspec.UNSET if error.result is None else ShellAnswer.of(backend.name, error.result)
            raise WorkFailed(error.code, error.message, output) from None
        except SandboxError as error:
            raise WorkFailed(error.code, error.message) from None
        return _outcome(backend.name, result)

    async def _task(self, payload: Payload, job: Job, run_id: str, backend: Backend) -> ShellTask:
        config = payload.node.config
        assert config.task is not None
        sandbox = config.sandbox
        script, env = self._filled(config.task, payload, job)
        passed = self._passed(sandbox.env_passthrough_allowlist, job)
        shared = sandbox.workdir == "run"
        workdir = await asyncio.to_thread(self.shells.workdirs.open, run_id, None if shared else payload.node.id)
        return ShellTask(
            request_id=job.order.request_id,
            run_id=run_id,
            node_id=payload.node.id,
            script=script,
            workdir=workdir,
            shared=shared,
            timeout_ms=self.shells.timeout_ms(backend, sandbox.timeout_ms, job.remaining_ms),
            output_max_chars=self.shells.output_max_chars(backend),
            shell=config.task.shell,
            env={**passed, **env, **identity(job.order)},
            network=sandbox.wanted_network,
            image=sandbox.image,
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


def _outcome(backend: str, result: TaskResult) -> Outcome:
    output = ShellAnswer.of(backend, result)
    if result.timed_out:
        return Outcome.failure(
            Code.NODE_EXECUTION_TIMEOUT, f"the task was stopped after {result.duration_ms} ms", output
        )
    if result.exit_code != 0:
        code, message = exit_code_of(backend, result)
        return Outcome.failure(code, message, output)
    return Outcome.of(output)
