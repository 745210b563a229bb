"""What is being worked on: at most `maxInFlight` requests, each from its order to a result in the journal.

    planned ──journal: started──▶ running ──▶ ended ──journal: finished──▶ told

Work without side effects skips the first write. Nothing runs before `started` is on disk; nothing is told before the
result is. Work runs in tasks of its own and blocks nobody; a stopped one has cleaned up behind itself before its result
is written.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import msgspec

from vespid_agent.clock import MonotonicMs, epoch_ms
from vespid_agent.journal import Entry, Journal, JournalError
from vespid_agent.journal import Outcome as Written
from vespid_agent.logs import Logger
from vespid_agent.marks import Marks
from vespid_agent.result import NO_SECRETS, result_of
from vespid_agent.work import action, agent_run, execute, tool_call
from vespid_agent.work.job import DEFAULT_TIMEOUT_MS, Job, Outcome, WorkFailed
from vespid_protocol.codes import Code
from vespid_protocol.frames import EVENT_MESSAGE_MAX_CHARS, Event, Execute, ExecuteResult, Level
from vespid_runtime.redaction import Redactor

# The work's own time limit comes first, so that what it has put out so far is not lost with it.
TIMEOUT_GRACE_MS = 1_000
# How long a result waits for a disk that refuses it, before it is tried again.
REWRITE_S = 1.0

Why: TypeAlias = Literal["cancelled", "trust_ended", "timeout", "drained"]
Work: TypeAlias = Callable[[Job], Awaitable[Outcome]]

_STOPPED: dict[Why, tuple[Code, str]] = {
    "cancelled": (Code.NODE_EXECUTION_CANCELLED, "it was cancelled"),
    "trust_ended": (
        Code.AGENT_DISCONNECTED,
        "the agent could not reach the gateway and stopped before its lease ended",
    ),
    "timeout": (Code.NODE_EXECUTION_TIMEOUT, "no result within the request's time"),
    "drained": (Code.AGENT_DISCONNECTED, "the agent was shut down while it worked on this"),
}


class Desk(Protocol):
    """Whom the runner reports to. Called on the loop."""

    def may_start(self, request_id: str) -> bool:
        """Asked at the moment of starting: is the lease still trusted and the request still wanted?"""
        ...

    def declined(self, request_id: str) -> None:
        """It could not be journaled, so it was not started."""
        ...

    def known(self, entry: Entry) -> None:
        """It was in the journal already and was not started again."""
        ...

    def ended(self, result: ExecuteResult, frame: bytes) -> None:
        """The result, and its bytes, are in the journal."""
        ...

    def event(self, request_id: str, event: Event) -> None:
        """Something to stream."""
        ...


@dataclass(slots=True)
class _Item:
    """A request that is not finished."""

    order: Execute
    digest: bytes
    deadline_ms: int
    lease_epoch: int
    # Epoch ms.
    since_ms: int
    redactor: Redactor
    seq: int = 0
    # Why it is to stop.
    why: Why | None = None
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    # The output of its failure, should it be stopped for no reason of its own: the next attempt goes on from it.
    kept: bytes | None = None


@dataclass(slots=True)
class Kinds:
    """The work of each kind that is more than an answer."""

    shell: execute.ShellWork
    action: action.ActionWork
    agent: agent_run.AgentWork
    tool: tool_call.ToolWork


class Runner:
    """`start`, `stop`, `adopt` are called on the loop; what comes of them is told to the desk."""

    def __init__(
        self, kinds: Kinds, journal: Journal, desk: Desk, log: Logger, monotonic_ms: MonotonicMs, max_frame_bytes: int
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._kinds = kinds
        self._journal = journal
        self._desk = desk
        self._log = log
        self._monotonic_ms = monotonic_ms
        self._items: dict[str, _Item] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Set whenever nothing is in flight.
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """How many requests are not finished."""
        return len(self._items)

    def in_flight(self) -> list[tuple[Execute, int]]:
        """Each request that is not finished, and since when (epoch ms) it is here."""
        return [(item.order, item.since_ms) for item in self._items.values()]

    def start(self, order: Execute) -> None:
        """Begin a request that is not in flight."""
        secrets = list((order.secrets or {}).values())
        if order.secret is not None:
            secrets.append(order.secret)
        item = _Item(
            order=order,
            digest=hashlib.sha256(order.payload).digest(),
            deadline_ms=self._monotonic_ms() + (order.timeout_ms or DEFAULT_TIMEOUT_MS),
            lease_epoch=order.lease_epoch or 0,
            since_ms=epoch_ms(),
            redactor=Redactor(secrets) if secrets else NO_SECRETS,
        )
        self._items[order.request_id] = item
        self._idle.clear()
        work = self._plan(order)
        if isinstance(work, Outcome):
            self._end(item, work, effects=False)
            return

        def written(standing: Written) -> None:
            self._begun(item, work, standing)

        self._journal.begin(order.request_id, item.lease_epoch, item.digest, order.on_lost == "resend", written)

    def stop(self, request_id: str, why: Why) -> None:
        """Stop it; what is left to say of it is journaled and told. Harmless when it is over."""
        item = self._items.get(request_id)
        if item is None or item.why not in (None, "trust_ended"):
            return
        item.why = why  # a cancel comes first: it is answered
        if item.task is not None:
            item.task.cancel()

    def stop_all(self, why: Why) -> None:
        for request_id in list(self._items):
            self.stop(request_id, why)

    def adopt(self, request_id: str, lease_epoch: int) -> None:
        """It is ours under a higher epoch."""
        item = self._items.get(request_id)
        if item is not None:
            item.lease_epoch = lease_epoch
        self._journal.adopt(request_id, lease_epoch)

    def expire(self) -> None:
        """Stop what is beyond its time. Timers do that, but they stand still while the machine sleeps."""
        now = self._monotonic_ms()
        for request_id, item in list(self._items.items()):
            if item.task is not None and now > item.deadline_ms + TIMEOUT_GRACE_MS:
                self.stop(request_id, "timeout")

    async def idle(self) -> None:
        """Returns when nothing is in flight."""
        await self._idle.wait()

    async def close(self) -> None:
        """Cancel every task and wait until each has cleaned up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _plan(self, order: Execute) -> Outcome | Work:
        """What is to be done, or the outcome where nothing is."""
        try:
            if order.kind == execute.KIND and tool_call.is_one(order):
                tool = tool_call.parse(order)
                return lambda job: self._kinds.tool.run(tool, job)
            if order.kind == execute.KIND:
                asked = execute.parse(order)
                return execute.instant(asked) or (lambda job: self._kinds.shell.run(asked, job))
            if order.kind == action.KIND:
                call = action.parse(order)
                return lambda job: self._kinds.action.run(call, job)
            if order.kind == agent_run.KIND:
                prompt = agent_run.parse(order)
                return self._kinds.agent.instant(prompt, order) or (lambda job: self._kinds.agent.run(prompt, job))
        except WorkFailed as failed:
            return Outcome.failure(failed.code, failed.message, failed.output)
        return Outcome.failure(Code.INVALID_EXECUTE_PAYLOAD, f"this agent does not know the kind {order.kind[:64]}")

    def _begun(self, item: _Item, work: Work, standing: Written) -> None:
        request_id = item.order.request_id
        if isinstance(standing, JournalError):
            self._log.error("not_journaled", request_id=request_id, error=str(standing))
            self._forget(item)
            self._desk.declined(request_id)
        elif standing is not None:
            self._forget(item)
            self._desk.known(standing)
        elif self._desk.may_start(request_id):
            self._run(item, work)
        elif item.why is not None:
            self._end(item, self._stopped(item.why), effects=True)
        else:  # trust ended: given back unstarted, it may come again
            self._journal.forget(request_id)
            self._forget(item)

    def _run(self, item: _Item, work: Work) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._work(item, work), name=f"work {item.order.request_id}")
        item.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        allowed_s = (item.deadline_ms - self._monotonic_ms() + TIMEOUT_GRACE_MS) / 1000
        item.timer = loop.call_later(max(allowed_s, 0), self.stop, item.order.request_id, "timeout")

    async def _work(self, item: _Item, work: Work) -> None:
        request_id = item.order.request_id

        def emit(kind: str, level: Level, message: str | None, payload: object) -> None:
            self._emit(item, kind, level, message, payload)

        async def mark(text: str) -> None:
            await self._journal.mark(request_id, text)

        async def keep(output: bytes | None) -> None:
            await self._journal.keep(request_id, output)
            item.kept = output

        job = Job(item.order, item.deadline_ms, item.redactor, emit, Marks(mark).put, keep, self._monotonic_ms)
        try:
            outcome = await work(job)
        except WorkFailed as failed:
            outcome = Outcome.failure(failed.code, failed.message, failed.output)
        except JournalError as error:
            outcome = Outcome.failure(Code.NODE_EXECUTION_FAILED, str(error))
        except asyncio.CancelledError:
            outcome = self._stopped(item.why or "drained", item.kept)
        except Exception as error:  # noqa: BLE001  (a fault in one piece of work must end as that work's failure)
            # Only its kind is told and logged: its text may quote what it was given.
            self._log.error("work_raised", request_id=request_id, error=type(error).__name__)
            outcome = Outcome.failure(Code.NODE_EXECUTION_FAILED, f"the work raised {type(error).__name__}")
        if item.timer is not None:
            item.timer.cancel()
        item.redactor = job.redactor
        self._end(item, outcome, effects=True)

    @staticmethod
    def _stopped(why: Why, kept: bytes | None = None) -> Outcome:
        code, message = _STOPPED[why]
        if kept is None or code != Code.AGENT_DISCONNECTED:
            return Outcome.failure(code, message)
        return Outcome.failure(code, message, msgspec.Raw(kept))

    def _end(self, item: _Item, outcome: Outcome, *, effects: bool) -> None:
        """Journal the outcome. `effects`: something was done, so that it must be written, whatever it takes."""
        request_id = item.order.request_id
        # The protocol's own rule: what was stopped for want of trust is kept for whoever asks, and not sent.
        abandon = item.why == "trust_ended" and outcome.status == "failed"
        write = self._journal.abandon if abandon else self._journal.finish
        epoch = item.lease_epoch or None
        result, frame = result_of(request_id, epoch, outcome, item.redactor, self.max_frame_bytes)

        def written(standing: Written) -> None:
            if isinstance(standing, JournalError):
                self._log.error("not_journaled", request_id=request_id, error=str(standing))
                if effects:
                    asyncio.get_running_loop().call_later(REWRITE_S, submit)
                    return
                self._forget(item)
                self._desk.declined(request_id)
                return
            self._forget(item)
            if standing is None:
                self._log.info(
                    "request_ended",
                    request_id=request_id,
                    kind=item.order.kind[:64],
                    status=result.status,
                    error=result.error,
                    ms=epoch_ms() - item.since_ms,
                )
                self._desk.ended(result, frame)
            else:
                self._desk.known(standing)

        def submit() -> None:
            write(request_id, item.lease_epoch, item.digest, frame, written)

        submit()

    def _emit(self, item: _Item, kind: str, level: Level, message: str | None, payload: object) -> None:
        item.seq += 1
        raw: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        if payload is not None:
            raw = msgspec.Raw(msgspec.json.encode(payload))
        said = message[:EVENT_MESSAGE_MAX_CHARS] if message is not None else None
        self._desk.event(
            item.order.request_id,
            Event(seq=item.seq, ts=epoch_ms(), kind=kind, level=level, message=said, payload=raw),
        )

    def _forget(self, item: _Item) -> None:
        self._items.pop(item.order.request_id, None)
        if not self._items:
            self._idle.set()
