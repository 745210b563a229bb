"""`vespid.loop.v1`: our own loop, over the API of any model, with the tools that the host gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from msgspec import UNSET, to_builtins

from vespid_protocol.codes import Code
from vespid_runtime.engines.drive import Asks, Drive, monotonic_ms
from vespid_runtime.engines.engine import EngineError, TurnAnswer, TurnOutput, TurnRequest
from vespid_runtime.engines.names import LOOP
from vespid_runtime.loop.effects import Failed, Finished
from vespid_runtime.loop.keeping import take_out
from vespid_runtime.loop.prior import recorded_calls
from vespid_runtime.loop.state import NO_USAGE, usage_since
from vespid_runtime.loop.task import LoopLimits, LoopTask
from vespid_runtime.models.naming import provider_of
from vespid_runtime.models.types import Assistant, Model, ModelAuth, User


class LoopEngine:
    """Keeps nothing between turns. `model` reaches every provider."""

    id = LOOP

    def __init__(self, model: Model) -> None:
        self._model = model

    async def turn(self, request: TurnRequest, output: TurnOutput) -> TurnAnswer:
        asks, task = self._asks(request), task_of(request)
        loop = None if request.resume is None else take_out(request.resume, task.limits.timeout_ms, monotonic_ms())
        drive = Drive(task, asks, request.tools, output, key=request.idempotency_key, approvals=request.approvals)
        end = await drive.run(loop)
        used = usage_since(end.usage, NO_USAGE if loop is None else loop.told)
        if isinstance(end, Failed):
            raise EngineError(end.code, end.message, used)
        if not isinstance(end, Finished):
            raise EngineError(Code.NODE_EXECUTION_CANCELLED, "it was cancelled", used)
        return TurnAnswer(
            end.content,
            {"provider": asks.provider, "model": asks.name, "stopReason": end.stop_reason, "usage": to_builtins(used)},
            value=end.value if request.output.mode == "json" else UNSET,
            usage=used,
        )

    def _asks(self, request: TurnRequest) -> Asks:
        engine = request.config.engine
        if engine.model is None:
            raise EngineError(Code.INVALID_EXECUTE_PAYLOAD, "engine.model: vespid.loop.v1 needs the name of a model")
        provider = engine.provider or provider_of(engine.model)
        if provider is None:
            raise EngineError(
                Code.INVALID_EXECUTE_PAYLOAD, f"engine.provider: nothing says whose model {engine.model[:100]} is"
            )
        auth = None if engine.auth is None else ModelAuth(api_key=engine.auth.api_key)
        return Asks(model=self._model, provider=provider, name=engine.model, auth=auth)


def task_of(request: TurnRequest) -> LoopTask:
    """The turn as the loop knows it."""
    config = request.config
    system = "\n\n".join(text for text in (config.prompt.system, config.prompt.instructions) if text)
    return LoopTask(
        message=request.message + "".join(_attached(request.attachments)),
        system=system,
        history=tuple(
            User(content=said.content) if said.role == "user" else Assistant(content=said.content)
            for said in request.history
        ),
        tools=request.tools.infos,
        allow=config.tools_allow,
        limits=LoopLimits.of(config.limits),
        output=request.output,
        recorded=recorded_calls(request.prior),
    )


def _attached(attachments: Iterable[object]) -> Iterable[str]:
    """What came with the message, as text behind it: its content, or where it is."""
    for attachment in attachments:
        if isinstance(attachment, dict):
            about = cast(dict[str, object], attachment)
            content = about.get("contentText") or about.get("contentUrl") or ""
            yield f"\n\n[attachment {about.get('name', '')} ({about.get('mimeType', '')})]\n{content}"
