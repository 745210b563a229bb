"""`agent.run`: a prompt answered by an engine of this agent, with the tools that it has.

The one thing to know: nothing that the engine says or keeps leaves here unmasked. The request's secrets, those of its
tools and the agent's own are known before the engine is asked anything.
"""

from __future__ import annotations

import msgspec

from vespid_agent.result import LOOP as GOES_ON
from vespid_agent.work.agent_stream import AgentStream
from vespid_agent.work.host_tools import HostTools, OrganizationSettings
from vespid_agent.work.job import Job, Outcome, WorkFailed
from vespid_protocol.codes import Code
from vespid_protocol.frames import Execute, Level
from vespid_runtime.engines.echo import echo
from vespid_runtime.engines.engine import Engine, EngineError, EngineParked
from vespid_runtime.engines.names import ECHO, LOOP
from vespid_runtime.engines.node import NodePayload, node_output, node_spent, turn_of
from vespid_runtime.engines.registry import Engines

KIND = "agent.run"
# Of the engine, where the node sets no limit; never more than what is left of the request's time.
DEFAULT_TIMEOUT_MS = 300_000


class Payload(NodePayload, frozen=True, kw_only=True):
    """What `execute.payload` holds for this kind."""

    organization_settings: OrganizationSettings = OrganizationSettings()


_decoder = msgspec.json.Decoder(Payload)


def parse(order: Execute) -> Payload:
    """Raises WorkFailed INVALID_EXECUTE_PAYLOAD, naming the field."""
    try:
        return _decoder.decode(order.payload)
    except msgspec.DecodeError as error:
        raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, str(error)) from None


class AgentWork:
    """Asks the engines of this agent, with its tools."""

    def __init__(self, engines: Engines, tools: HostTools) -> None:
        self.engines = engines
        self._tools = tools

    def instant(self, payload: Payload, order: Execute) -> Outcome | None:
        """The outcome of what needs nothing to be done. Raises WorkFailed for what cannot be done here."""
        engine = self._engine(payload)
        if payload.node.config.tools.approval and engine.id != LOOP:
            message = f"only {LOOP} asks people - at `$.node.config.tools.approval`"
            raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, message)
        if engine.id != ECHO:
            return None
        request = turn_of(
            payload,
            request_id=order.request_id,
            organization_id=order.organization_id,
            user_id=order.user_id,
            timeout_ms=DEFAULT_TIMEOUT_MS,
        )
        try:
            return Outcome.of(node_output(ECHO, request, echo(request)))
        except EngineError as failed:
            raise WorkFailed(failed.code, failed.message) from None

    async def run(self, payload: Payload, job: Job) -> Outcome:
        """Raises WorkFailed."""
        engine, run_id = self._engine(payload), payload.run_id or job.order.request_id.partition(":")[0]
        allow = self._tools.kit.narrow(payload.tools_allow)
        stream: AgentStream | None = None

        def emit(kind: str, level: Level, message: str | None, told: object) -> None:
            if stream is not None:
                stream.event(kind, level, message, told)

        with self._tools.workdirs.use(run_id):
            scope = await self._tools.scope(
                job,
                emit,
                run_id=run_id,
                node_id=payload.node.id,
                allow=allow,
                settings=payload.organization_settings,
                auth=payload.node.config.tools.auth,
                env=payload.env,
                memory_key=payload.memory_key,
            )
            request = turn_of(
                msgspec.structs.replace(payload, effective_tools_allow=allow),
                request_id=job.order.request_id,
                organization_id=job.order.organization_id,
                user_id=job.order.user_id,
                timeout_ms=_timeout_ms(payload, job),
                api_key=job.order.secret,
                tools=self._tools.toolbox(scope, job),
                workdir=scope.workdir,
            )
            stream = AgentStream(job)
            try:
                answer = await engine.turn(request, stream)
            except EngineParked as parked:
                output = {GOES_ON: msgspec.Raw(parked.state), "approvals": msgspec.to_builtins(parked.asked)}
                output |= node_spent(payload, parked.usage)
                raise WorkFailed(Code.APPROVAL_REQUIRED, str(parked), output) from None
            except EngineError as failed:
                raise WorkFailed(
                    failed.code, failed.message, node_spent(payload, failed.usage) or msgspec.UNSET
                ) from None
            finally:
                stream.close()
        return Outcome.of(node_output(engine.id, request, answer))

    def _engine(self, payload: Payload) -> Engine:
        try:
            return self.engines.get(payload.node.config.engine.id)
        except EngineError as missing:
            raise WorkFailed(missing.code, missing.message) from None


def _timeout_ms(payload: Payload, job: Job) -> int:
    """What the engine may take, before its node's own limit."""
    limits = payload.node.config.limits
    is_limited = limits is not None and limits.timeout_ms is not None
    return job.remaining_ms if is_limited else min(job.remaining_ms, DEFAULT_TIMEOUT_MS)
