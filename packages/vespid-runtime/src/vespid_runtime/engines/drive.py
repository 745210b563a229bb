"""The loop driven: a model is called, tools are called side by side, and what they say goes back to the machine.

    end = await Drive(task, asks, tools, output, key=…).run(resume)

The one thing to know: before a tool is called, and once it has answered, the loop is kept. Whoever takes it out again
goes on from there: a call that had finished is not made again, and one that had begun is made again under its key.
Cancelling ends the model's call and the tools' before it is let through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic

import msgspec

from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineParked, TurnOutput
from vespid_runtime.loop import walk
from vespid_runtime.loop.effects import CallModel, CallTool, Cancelled, End, Failed, Finished, Say, Stop, Tell, Wanted
from vespid_runtime.loop.events import Delta, ModelFailed, Replied, Resume, Start, Tick, Told, ToolAnswered
from vespid_runtime.loop.machine import TERMINAL, State
from vespid_runtime.loop.state import Call, Loop
from vespid_runtime.loop.task import LoopTask
from vespid_runtime.models.types import Done, Model, ModelAuth, ModelError, ModelRequest, TextDelta
from vespid_runtime.tools.approval import ApprovalAsked, ApprovalDecided, Approvals
from vespid_runtime.tools.tool import ToolUse
from vespid_runtime.tools.toolbox import Toolbox

_decode = msgspec.json.Decoder(Loop).decode
_encode = msgspec.json.Encoder().encode

_REFUSED = {"denied": Code.APPROVAL_DENIED, "expired": Code.APPROVAL_EXPIRED}
_TOLD = {"denied": "a person did not allow this call", "expired": "nobody allowed this call in time"}


def monotonic_ms() -> int:
    return int(monotonic() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """Which model answers, and how it is reached."""

    model: Model
    provider: str
    name: str
    base_url: str | None = None
    auth: ModelAuth | None = field(default=None, repr=False)

    def request(self, wanted: CallModel) -> ModelRequest:
        return ModelRequest(
            provider=self.provider,
            model=self.name,
            messages=wanted.messages,
            tools=wanted.tools,
            base_url=self.base_url,
            timeout_ms=min(wanted.timeout_ms, 600_000),
            max_output_chars=wanted.max_output_chars,
            auth=self.auth,
        )


class Drive:
    """One turn. `run` once."""

    def __init__(
        self,
        task: LoopTask,
        asks: Asks,
        tools: Toolbox,
        output: TurnOutput,
        *,
        key: str,
        approvals: Approvals,
        now_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """`key`: of the turn; that of a tool call is this with the call's own behind it."""
        self._task = task
        self._asks = asks
        self._tools = tools
        self._output = output
        self._key = key
        self._approvals = approvals
        self._now_ms = now_ms
        self._told: asyncio.Queue[Told] = asyncio.Queue()
        self._thinking: asyncio.Task[None] | None = None
        self._calling: set[asyncio.Task[None]] = set()
        # Calls that wait for people.
        self._waiting: dict[str, ApprovalAsked] = {}

    async def run(self, resume: Loop | None = None) -> End:
        """How it ended. Raises EngineParked where people have to decide first, and what `output.keep` raises."""
        loop = Loop() if resume is None else self._from_now(resume)
        batch: Iterable[Told] = (Start(now_ms=self._now_ms()) if resume is None else Resume(now_ms=self._now_ms()),)
        try:
            while True:
                wanted: list[Wanted] = []
                has_answers = False
                for told in batch:
                    loop, more = walk.step(self._task, loop, told)
                    wanted += more
                    has_answers = has_answers or isinstance(told, ToolAnswered)
                end = await self._do(loop, wanted, has_answers=has_answers)
                if end is not None:
                    return end
                self._park_if_waiting(loop)
                batch = await self._next(loop)
        finally:
            await self._stop()

    def _from_now(self, loop: Loop) -> Loop:
        """Time that nobody worked does not count, and this host's clock is another's."""
        return msgspec.structs.replace(loop, deadline_ms=self._now_ms() + self._task.limits.timeout_ms)

    # --- what is wanted ----------------------------------------------------------------------------------------------

    async def _do(self, loop: Loop, wanted: list[Wanted], *, has_answers: bool) -> End | None:
        calls = [each for each in wanted if isinstance(each, CallTool)]
        asks: CallModel | None = None
        for each in wanted:
            if isinstance(each, Say):
                self._output.delta(each.text)
            elif isinstance(each, Tell):
                self._output.event(each.kind, each.level, each.message, each.payload)
            elif isinstance(each, Stop):
                await self._stop()
            elif isinstance(each, CallModel):
                asks = each
            elif isinstance(each, Finished | Failed | Cancelled):
                return each
        if calls or has_answers:
            await self._output.keep(_encode(loop))
        for call in calls:
            self._call(call, next(each for each in loop.open if each.id == call.call_id))
        if asks is not None:
            self._thinking = asyncio.create_task(self._think(asks), name=f"model of {self._key}")
        return None

    def _call(self, wanted: CallTool, call: Call) -> None:
        rule = self._approvals.rule(wanted.tool)
        decided = None if rule is None else self._approvals.decision(wanted.n, wanted.tool, call.digest)
        if rule is not None and decided is None:
            self._waiting[wanted.call_id] = ApprovalAsked(
                n=wanted.n,
                tool=wanted.tool,
                arguments=wanted.arguments,
                digest=call.digest,
                by=rule.by,
                timeout_ms=rule.timeout_ms,
            )
        elif decided is not None and decided.decision != "approved":
            self._told.put_nowait(self._refusal(wanted, decided))
        else:
            task = asyncio.create_task(self._use(wanted), name=f"{wanted.tool} of {self._key}")
            self._calling.add(task)
            task.add_done_callback(self._calling.discard)

    def _refusal(self, wanted: CallTool, decided: ApprovalDecided) -> ToolAnswered:
        said = "" if decided.comment is None else f": {decided.comment}"
        content = f"{_REFUSED[decided.decision]}: {_TOLD[decided.decision]}{said}"
        return ToolAnswered(now_ms=self._now_ms(), call_id=wanted.call_id, content=content, is_error=True)

    async def _use(self, wanted: CallTool) -> None:
        use = ToolUse(n=wanted.n, key=f"{self._key}:{wanted.key}", timeout_ms=max(wanted.timeout_ms, 1))
        answer = await self._tools.call(wanted.tool, wanted.arguments, use)
        self._told.put_nowait(
            ToolAnswered(
                now_ms=self._now_ms(), call_id=wanted.call_id, content=answer.content, is_error=answer.is_error
            )
        )

    async def _think(self, wanted: CallModel) -> None:
        request, turn = self._asks.request(wanted), wanted.turn
        try:
            async with aclosing(self._asks.model.stream(request)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, TextDelta):
                        self._told.put_nowait(Delta(now_ms=self._now_ms(), turn=turn, text=piece.text))
                    elif isinstance(piece, Done):
                        self._told.put_nowait(Replied(now_ms=self._now_ms(), turn=turn, reply=piece.reply))
                        return
            failed = ModelError(Code.ENGINE_UNAVAILABLE, "the model's stream ended without an end")
        except ModelError as error:
            failed = error
        except Exception as fault:  # noqa: BLE001  (a fault of a provider's SDK is the model's failure, in no other words)
            failed = ModelError(Code.NODE_EXECUTION_FAILED, f"the call of the model raised {type(fault).__name__}")
        self._told.put_nowait(ModelFailed(now_ms=self._now_ms(), turn=turn, code=failed.code, message=failed.message))

    # --- what is heard -----------------------------------------------------------------------------------------------

    async def _next(self, loop: Loop) -> list[Told]:
        """What has happened by now, at least one thing; a tick when the loop's time has come."""
        wake_at = walk.wake_at_ms(loop)
        wait_s = None if wake_at is None else max(wake_at - self._now_ms(), 0) / 1000
        try:
            async with asyncio.timeout(wait_s):
                batch = [await self._told.get()]
        except TimeoutError:
            return [Tick(now_ms=self._now_ms())]
        while not self._told.empty():
            batch.append(self._told.get_nowait())
        return batch

    def _park_if_waiting(self, loop: Loop) -> None:
        """Nothing is under way but what people have to decide."""
        if not self._waiting or loop.state is not State.CALLING:
            return
        if {call.id for call in loop.unanswered} <= self._waiting.keys():
            raise EngineParked(_encode(loop), tuple(self._waiting.values()))

    async def _stop(self) -> None:
        tasks = [*self._calling, *(() if self._thinking is None else (self._thinking,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def kept_loop(state: bytes | None) -> Loop | None:
    """The loop in what `keep` was given; None where it is over, or is none (it was made by another version)."""
    if state is None:
        return None
    try:
        loop = _decode(state)
    except msgspec.DecodeError:
        return None
    return None if loop.state in TERMINAL or loop.state is State.READY else loop
