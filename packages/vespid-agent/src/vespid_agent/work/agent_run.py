"""`agent.run`: a prompt answered by an engine of this agent, with the tools that it has.

The one thing to know: nothing that the engine says or keeps leaves here unmasked. The request's secrets, those of its
tools and the agent's own are known before the engine is asked anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from vespid_agent.work.agent_stream import AgentStream
from vespid_agent.work.job import Job, Outcome, WorkFailed, idempotency_key
from vespid_agent.work.node_tools import NodeTools, Part, ToolsConfig, ToolsPayload
from vespid_protocol.codes import Code
from vespid_protocol.frames import Execute, Level
from vespid_runtime.engines.config import Auth, EngineChoice, Limits, Output, Prompt, SessionConfig
from vespid_runtime.engines.engine import Engine, EngineError, EngineParked, TurnAnswer, TurnRequest
from vespid_runtime.engines.names import ECHO, LOOP
from vespid_runtime.engines.registry import Engines
from vespid_runtime.loop.schema import BadSchema, NotJson, problems, read_json
from vespid_runtime.tools.approval import ApprovalDecided, Approvals
from vespid_runtime.tools.event import ToolEvent
from vespid_runtime.tools.toolbox import Toolbox

KIND = "agent.run"
# Where the node sets no limit; never more than what is left of the request's time.
DEFAULT_TIMEOUT_MS = 300_000

_NOTHING = msgspec.Raw(b"null")


class _Engine(Part, frozen=True):
    id: str
    model: str | None = None
    provider: str | None = None


class _Prompt(Part, frozen=True):
    instructions: str = ""
    system: str | None = None
    # What the node is about, its templates filled.
    input_template: str | None = None


class _Config(Part, frozen=True):
    engine: _Engine | None = None
    prompt: _Prompt = _Prompt()
    tools: ToolsConfig | None = None
    limits: Limits | None = None
    output: Output | None = None


class _Node(Part, frozen=True):
    id: str
    config: _Config


class Payload(ToolsPayload, frozen=True, kw_only=True):
    """What `execute.payload` holds for this kind."""

    node: _Node
    # What an earlier attempt was put away with, its events, and what people have decided since.
    resume: msgspec.Raw = _NOTHING
    prior: tuple[ToolEvent, ...] = ()
    approvals: tuple[ApprovalDecided, ...] = ()

    @property
    def tools(self) -> ToolsConfig:
        return self.node.config.tools or ToolsConfig()

    @property
    def message(self) -> str:
        """The instructions, and behind them what they are about."""
        prompt = self.node.config.prompt
        return "\n\n".join(text for text in (prompt.instructions, prompt.input_template) if text)

    @property
    def output(self) -> Output:
        return self.node.config.output or Output()

    @property
    def put_away(self) -> bytes | None:
        """What the engine goes on from."""
        return None if self.resume == _NOTHING else bytes(self.resume)


_decoder = msgspec.json.Decoder(Payload)


def parse(order: Execute) -> Payload:
    """Raises WorkFailed INVALID_EXECUTE_PAYLOAD, naming the field."""
    try:
        return _decoder.decode(order.payload)
    except msgspec.DecodeError as error:
        raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, str(error)) from None


class AgentWork:
    """Asks the engines of this agent, with its tools."""

    def __init__(self, engines: Engines, tools: NodeTools) -> None:
        self.engines = engines
        self._tools = tools

    def instant(self, payload: Payload) -> Outcome | None:
        """The outcome of what needs nothing to be done. Raises WorkFailed for what cannot be done here."""
        engine = self._engine(payload)
        if payload.tools.approval and engine.id != LOOP:
            message = f"only {LOOP} asks people - at `$.node.config.tools.approval`"
            raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, message)
        if engine.id != ECHO:
            return None
        return Outcome.of(_output(ECHO, TurnAnswer(payload.message), payload.output))

    async def run(self, payload: Payload, job: Job) -> Outcome:
        """Raises WorkFailed."""
        engine = self._engine(payload)
        stream: AgentStream | None = None

        def emit(kind: str, level: Level, message: str | None, told: object) -> None:
            if stream is not None:
                stream.event(kind, level, message, told)

        with self._tools.workdirs.use(payload.run(job)):
            scope = await self._tools.scope(payload, payload.tools, payload.node.id, job, emit)
            tools = self._tools.toolbox(scope, job)
            stream = AgentStream(job, payload.put_away)
            if payload.put_away is not None:  # should this attempt not come as far as to keep anything
                await stream.keep(payload.put_away)
            try:
                answer = await engine.turn(self._request(payload, job, tools, scope.workdir), stream)
            except EngineParked as parked:
                asked = msgspec.to_builtins(parked.asked)
                output = {**stream.put_away(parked.state), "approvals": asked}
                raise WorkFailed(Code.APPROVAL_REQUIRED, str(parked), output) from None
            except EngineError as failed:
                raise WorkFailed(failed.code, failed.message, _spent(payload, failed)) from None
            finally:
                stream.close()
        return Outcome.of(_output(engine.id, answer, payload.output))

    def _engine(self, payload: Payload) -> Engine:
        asked = payload.node.config.engine
        try:
            return self.engines.get("none" if asked is None else asked.id)
        except EngineError as missing:
            raise WorkFailed(missing.code, missing.message) from None

    def _request(self, payload: Payload, job: Job, tools: Toolbox, workdir: Path) -> TurnRequest:
        config, order = payload.node.config, job.order
        return TurnRequest(
            request_id=order.request_id,
            session_id=None,
            organization_id=order.organization_id,
            user_id=order.user_id,
            message=payload.message,
            prior=payload.prior,
            config=SessionConfig(
                engine=_choice(config.engine, order.secret),
                prompt=Prompt(system=config.prompt.system),
                tools_allow=self._tools.allow(payload, payload.tools),
                limits=_limits(config.limits, job),
            ),
            idempotency_key=idempotency_key(order.request_id),
            tools=tools,
            approvals=Approvals(payload.tools.approval, payload.approvals),
            output=payload.output,
            workdir=workdir,
            resume=payload.put_away,
        )


def _choice(asked: _Engine | None, key: str | None) -> EngineChoice:
    assert asked is not None, "there is an engine of that name"
    auth = None if key is None else Auth(kind="api_key", api_key=key)
    mode: Literal["env", "inline_api_key"] = "env" if key is None else "inline_api_key"
    return EngineChoice(id=asked.id, model=asked.model, provider=asked.provider, auth_mode=mode, auth=auth)


def _limits(asked: Limits | None, job: Job) -> Limits:
    limits = asked or Limits()
    return msgspec.structs.replace(
        limits, timeout_ms=max(min(limits.timeout_ms or DEFAULT_TIMEOUT_MS, job.remaining_ms), 1)
    )


def _output(engine_id: str, answer: TurnAnswer, wanted: Output) -> dict[str, object]:
    said: dict[str, object] = {"text": answer.content} if wanted.mode == "text" else {"json": _value(answer, wanted)}
    return {"engineId": engine_id, **said, **(answer.payload or {})}


def _value(answer: TurnAnswer, wanted: Output) -> object:
    """The JSON that was asked for, also of an engine that knows only text. Raises WorkFailed AGENT_OUTPUT_INVALID."""
    if answer.value is not msgspec.UNSET:
        return answer.value
    try:
        value = read_json(answer.content)
    except NotJson as error:
        raise WorkFailed(Code.AGENT_OUTPUT_INVALID, f"the answer is not JSON: {error}") from None
    try:
        wrong = [] if wanted.json_schema is None else problems(value, wanted.json_schema)
    except BadSchema as error:
        raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, f"{error} - at `$.node.config.output.jsonSchema`") from None
    if wrong:
        raise WorkFailed(Code.AGENT_OUTPUT_INVALID, "; ".join(wrong))
    return value


def _spent(payload: Payload, failed: EngineError) -> object:
    """What the model took all the same."""
    engine = payload.node.config.engine
    if failed.usage is None or engine is None:
        return msgspec.UNSET
    named = {"provider": engine.provider, "model": engine.model}
    return {"usage": msgspec.to_builtins(failed.usage), **{key: name for key, name in named.items() if name}}
