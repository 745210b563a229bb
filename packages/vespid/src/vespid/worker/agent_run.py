"""`agent.run` in the gateway's mode: our own loop in this process, models over the engine-runner.

The one thing to know: the loop is kept as it goes (`kept_turn.py`). Whoever has the execution next, another process
after a crash or the next attempt of the node, goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vespid.dispatch.house import House
from vespid.dispatch.secrets import RequestSecrets
from vespid.store.executions import CloudWork, Resume
from vespid.worker.engine_runner import EngineRunner
from vespid.worker.kept_turn import KeptTurn
from vespid.worker.outcome import Outcome
from vespid.worker.tool_source import ToolSource
from vespid_protocol.codes import Code
from vespid_protocol.ids import OrgId, RequestId
from vespid_runtime.engines.echo import EchoEngine
from vespid_runtime.engines.engine import Engine, EngineError, EngineParked
from vespid_runtime.engines.loop import LoopEngine
from vespid_runtime.engines.names import ECHO, LOOP
from vespid_runtime.engines.node import NodePayload, node_output, node_spent, read_payload, turn_of
from vespid_runtime.loop.task import LoopLimits
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.approval import ApprovalDecided

_decode_decided = msgspec.json.Decoder(tuple[ApprovalDecided, ...]).decode

KIND = "agent.run"
# What is left of the node's time when the loop's is over: to say why.
MARGIN_MS = 1_000


class AgentRuns:
    """Runs them, and knows which of them run."""

    def __init__(self, house: House, runner: EngineRunner, tools: ToolSource, *, payload_max_chars: int) -> None:
        self._house = house
        self._runner = runner
        self._tools = tools
        self._payload_max_chars = payload_max_chars
        self._turns: dict[str, KeptTurn] = {}

    def hand_over(self) -> None:
        """What runs is to go on elsewhere."""
        for turn in self._turns.values():
            turn.hand_over()

    async def run(self, work: CloudWork, secrets: RequestSecrets) -> Outcome:
        """Raises TurnAbandoned where another goes on with it."""
        try:
            payload = read_payload(work.payload)
        except msgspec.DecodeError as error:
            return Outcome(error=Code.INVALID_EXECUTE_PAYLOAD, message=str(error))
        engine = self._engine(payload, work)
        if engine is None:
            message = f"{payload.node.config.engine.id} runs on agents only"
            return Outcome(error=Code.EXECUTOR_UNSUPPORTED_ENGINE, message=message)
        so_far = await self._so_far(work)
        resume = so_far.resume
        if so_far.decided is not None:
            payload = msgspec.structs.replace(payload, approvals=_decode_decided(so_far.decided))
        limits = LoopLimits() if payload.node.config.limits is None else LoopLimits.of(payload.node.config.limits)
        turn = KeptTurn(
            self._house,
            work,
            Redactor(secrets.clear_values()),
            payload_max_chars=self._payload_max_chars,
            text_max_chars=limits.max_output_chars,
            resume=resume,
        )
        self._turns[work.request_id] = turn
        try:
            async with turn.run():
                outcome = await self._turn(engine, payload, work, secrets, turn, resume)
        finally:
            del self._turns[work.request_id]
        return msgspec.structs.replace(outcome, tail=turn.take_tail())

    def _engine(self, payload: NodePayload, work: CloudWork) -> Engine | None:
        org_id = str(work.organization_id)
        engines: dict[str, Callable[[], Engine]] = {
            LOOP: lambda: LoopEngine(self._runner.of(org_id)),
            ECHO: EchoEngine,
        }
        make = engines.get(payload.node.config.engine.canonical_id)
        return None if make is None else make()

    async def _turn(
        self,
        engine: Engine,
        payload: NodePayload,
        work: CloudWork,
        secrets: RequestSecrets,
        turn: KeptTurn,
        resume: str | None,
    ) -> Outcome:
        request = turn_of(
            payload,
            request_id=work.request_id,
            organization_id=str(work.organization_id),
            user_id="" if work.requested_by_user_id is None else str(work.requested_by_user_id),
            timeout_ms=max(1, work.timeout_ms - min(MARGIN_MS, work.timeout_ms // 10)),
            api_key=None if secrets.auth is None else secrets.auth.reveal(),
            tools=await self._tools.toolbox(payload, work, secrets, turn),
            resume=None if resume is None else resume.encode(),
        )
        try:
            answer = await engine.turn(request, turn)
        except EngineParked as parked:
            asked = msgspec.to_builtins(parked.asked)
            used = node_spent(payload, parked.usage)
            output = {"loop": msgspec.json.decode(parked.state), "approvals": asked, **used}
            return Outcome(output, Code.APPROVAL_REQUIRED, str(parked))
        except EngineError as failed:
            return Outcome(node_spent(payload, failed.usage) or None, failed.code, failed.message)
        return Outcome(node_output(engine.id, request, answer))

    async def _so_far(self, work: CloudWork) -> Resume:
        """Nothing where it is begun for the first time."""
        if work.attempt == 1 and work.lease_epoch == 1:
            return Resume()
        org_id = OrgId(str(work.organization_id))
        return await self._house.executions.read_resume(org_id, RequestId(work.request_id))
