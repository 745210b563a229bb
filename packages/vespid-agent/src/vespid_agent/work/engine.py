"""`agent.run`: a prompt answered by an engine of this agent. For now that is `vespid.echo.v1`, which needs no model."""

from __future__ import annotations

import msgspec

from vespid_agent.work.job import Outcome, WorkFailed
from vespid_protocol.codes import Code
from vespid_protocol.frames import Execute
from vespid_runtime.engines.names import ECHO

KIND = "agent.run"
# What `hello.capabilities.engines` says.
ENGINES = (ECHO,)


class _Part(msgspec.Struct, rename="camel", frozen=True):
    pass


class _Engine(_Part, frozen=True):
    id: str


class _Prompt(_Part, frozen=True):
    instructions: str = ""


class _Output(_Part, frozen=True):
    mode: str = "text"


class _Config(_Part, frozen=True):
    engine: _Engine | None = None
    prompt: _Prompt = _Prompt()
    output: _Output = _Output()


class _Node(_Part, frozen=True):
    id: str
    config: _Config


class Payload(_Part, frozen=True):
    """What `execute.payload` holds for this kind."""

    node: _Node
    node_id: str = ""


_decoder = msgspec.json.Decoder(Payload)


def parse(order: Execute) -> Payload:
    """Raises WorkFailed INVALID_EXECUTE_PAYLOAD, naming the field."""
    try:
        return _decoder.decode(order.payload)
    except msgspec.DecodeError as error:
        raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, str(error)) from None


def instant(payload: Payload) -> Outcome:
    """Echo's answer. Raises WorkFailed EXECUTOR_UNSUPPORTED_ENGINE for every other engine."""
    engine = payload.node.config.engine
    if engine is None or engine.id != ECHO:
        asked = "none" if engine is None else engine.id
        raise WorkFailed(
            Code.EXECUTOR_UNSUPPORTED_ENGINE, f"this agent has no engine {asked}; it has {', '.join(ENGINES)}"
        )
    told = payload.node.config.prompt.instructions
    if payload.node.config.output.mode != "json":
        return Outcome.of({"engineId": ECHO, "text": told})
    try:
        return Outcome.of({"engineId": ECHO, "json": msgspec.json.decode(told)})
    except msgspec.DecodeError:
        raise WorkFailed(Code.NODE_EXECUTION_FAILED, "the echoed text is not JSON") from None
