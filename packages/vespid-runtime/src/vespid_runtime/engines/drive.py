"""The loop driven: a model is called, tools are called side by side, and what they say goes back to the machine.

    end = await Drive(task, asks, tools, output, key=…).run(resume)

The one thing to know: before a tool is called, once it has answered, and whenever the model has, the loop is kept.
Whoever takes it out again goes on from there: a call that had finished is not made again, and one that had begun is
made again under its key. Cancelling ends the model's call and the tools' before it is let through, as far as they end
when they are told to (`stopping.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic

from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineParked, TurnOutput
from vespid_runtime.loop import walk
from vespid_runtime.loop.effects import CallModel, CallTool, Cancelled, End, Failed, Finished, Say, Stop, Tell, Wanted
from vespid_runtime.loop.events import Delta, ModelFailed, Replied, Resume, Start, Tick, Told, ToolAnswered
from vespid_runtime.loop.keeping import put_away
from vespid_runtime.loop.machine import TERMINAL, State
from vespid_runtime.loop.state import Call, Loop
from vespid_runtime.loop.task import LoopTask
from vespid_runtime.models.types import Done, Model, ModelAuth, ModelError, ModelRequest, TextDelta
from vespid_runtime.stopping import stop
from vespid_runtime.tools.approval import ApprovalAsked, ApprovalDecided, Approvals
from vespid_runtime.tools.tool import ToolUse
from vespid_runtime.tools.toolbox import Toolbox

# Of one reply; the others wait for room.
TOOLS_AT_ONCE = 16
# What a request to a model may ask for.
_MODEL_TIMEOUT_MAX_MS = 600_000

# After these there is something to keep.
_NEWS = (Resume, Replied, ToolAnswered)

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
            timeout_ms=min(wanted.timeout_ms, _MODEL_TIMEOUT_MAX_MS),
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
        # The model's call, and the tools'.
        self._under_way: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(TOOLS_AT_ONCE)
        # Calls that wait for people.
        self._waiting: dict[str, ApprovalAsked] = {}

    async def run(self, resume: Loop | None = None) -> End:
        """How it ended. Raises EngineParked where people have to decide first, and what `output.keep` raises."""
        live = loop = Loop() if resume is None else resume
        batch: list[Told] = [(Start if resume is None else Resume)(now_ms=self._now_ms())]
        try:
            while True:
                wanted: list[Wanted] = []
                for told in batch:
                    loop, more = walk.step(self._task, loop, told)
                    wanted += more
                    live = live if loop.state in TERMINAL else loop
                end = await self._do(loop, wanted, has_news=any(isinstance(told, _NEWS) for told in batch))
                if isinstance(end, Failed) and live.state is not State.READY:
                    # A later try may go on from here all the same. What was used is told with the failure.
                    await self._output.keep(put_away(live.all_told(end.usage)))
                if end is not None:
                    return end
                self._park_if_waiting(loop)
                batch = await self._next(loop)
        finally:
            await self._stop()

    # --- what is wanted ----------------------------------------------------------------------------------------------

    async def _do(self, loop: Loop, wanted: list[Wanted], *, has_news: bool) -> End | None:
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
        if has_news:
            await self._output.keep(put_away(loop))
        for call in calls:
            self._call(call, next(each for each in loop.open if each.id == call.call_id))
        if asks is not None:
            self._start(self._think(asks), f"model of {self._key}")
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
            self._start(self._use(wanted), f"{wanted.tool} of {self._key}")

    def _refusal(self, wanted: CallTool, decided: ApprovalDecided) -> ToolAnswered:
        said = "" if decided.comment is None else f": {decided.comment}"
        content = f"{_REFUSED[decided.decision]}: {_TOLD[decided.decision]}{said}"
        return ToolAnswered(now_ms=self._now_ms(), call_id=wanted.call_id, content=content, is_error=True)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _use(self, wanted: CallTool) -> None:
        use = ToolUse(n=wanted.n, key=f"{self._key}:{wanted.key}", timeout_ms=wanted.timeout_ms)
        async with self._room:
            answer = await self._tools.call(wanted.tool, wanted.arguments, use)
        self._told.put_nowait(
            ToolAnswered(
                now_ms=self._now_ms(), call_id=wanted.call_id, content=answer.content, is_error=answer.is_error
            )
        )

    async def _think(self, wanted: CallModel) -> None:
        try:
            told = await self._reply(wanted)
        except ModelError as error:
            told = self._failure(wanted, error)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            told = self._failure(wanted, ModelError(Code.ENGINE_UNAVAILABLE, "the call of the model stopped by itself"))
        except Exception as fault:  # noqa: BLE001  (a fault of a provider's SDK is the model's failure, in no other words)
            why = f"the call of the model raised {type(fault).__name__}"
            told = self._failure(wanted, ModelError(Code.NODE_EXECUTION_FAILED, why))
        self._told.put_nowait(told)

    async def _reply(self, wanted: CallModel) -> Told:
        """The whole reply, its text told meanwhile. Raises ModelError."""
        async with aclosing(self._asks.model.stream(self._asks.request(wanted))) as pieces:
            async for piece in pieces:
                if isinstance(piece, TextDelta):
                    self._told.put_nowait(Delta(now_ms=self._now_ms(), turn=wanted.turn, text=piece.text))
                    # A model that is faster than we are does not get ahead, and does not stop the clock.
                    await asyncio.sleep(0)
                elif isinstance(piece, Done):
                    return Replied(now_ms=self._now_ms(), turn=wanted.turn, reply=piece.reply)
        raise ModelError(Code.ENGINE_UNAVAILABLE, "the model's stream ended without an end")

    def _failure(self, wanted: CallModel, error: ModelError) -> ModelFailed:
        return ModelFailed(now_ms=self._now_ms(), turn=wanted.turn, code=error.code, message=error.message)

    # --- what is heard -----------------------------------------------------------------------------------------------

    async def _next(self, loop: Loop) -> list[Told]:
        """What has happened by now, at least one thing; a tick when the loop's time has come."""
        wake_at = walk.wake_at_ms(loop)
        wait_s = None if wake_at is None else max(wake_at - self._now_ms(), 0) / 1000
        batch: list[Told] = []
        try:
            async with asyncio.timeout(wait_s):
                batch.append(await self._told.get())
        except TimeoutError:
            pass
        while not self._told.empty():
            batch.append(self._told.get_nowait())
        if wake_at is not None and self._now_ms() >= wake_at:
            batch.append(Tick(now_ms=self._now_ms()))
        return batch

    def _park_if_waiting(self, loop: Loop) -> None:
        """Nothing is under way but what people have to decide."""
        if not self._waiting or loop.state is not State.CALLING:
            return
        if {call.id for call in loop.unanswered} <= self._waiting.keys():
            raise EngineParked(put_away(loop.all_told(loop.usage)), tuple(self._waiting.values()), loop.untold_usage)

    async def _stop(self) -> None:
        """A tool has its own grace within ours (`Toolbox.call`)."""
        await stop(self._under_way, more_s=1)


def _is_cancelled() -> bool:
    """Whether somebody cancelled the task that runs here; what it waits for may have ended that way by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
