"""Steps runs: read at a version, ask the pure machine, write everything in one statement guarded by that version.

The one thing to know: nobody holds a run. A step that comes too late writes nothing and is made again from what is
there; two steppers of one run disturb each other only by that. The lock and the cache here save work within one
process, they guarantee nothing.

`step` serves whoever finds a run due (a worker). `finish` serves whoever receives a result (an edge, a cloud runner):
the result, the run's next state and its next executions are one commit. `create` serves an API in the worker's own
process: the run and its first step are one commit.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import CLOUD_QUEUE, run_channel, run_item
from vespid.bus.org_news import tell_org
from vespid.bus.ports import Fanout, Mail
from vespid.dispatch.metering import Meter
from vespid.dispatch.organizations import Organizations, settings_of
from vespid.dispatch.plans import Plans, WorkflowMissing
from vespid.dispatch.rows import cloud_work, event_item, execution_row, input_of, text_or_none
from vespid.dispatch.scheduler import Scheduler, Wanted
from vespid.domain.plan import Plan
from vespid.domain.policy import Backoff, OrgSettings, RunPolicy
from vespid.domain.run import (
    NodeSucceeded,
    OutputsMissing,
    RunContext,
    RunEvent,
    RunState,
    Start,
    decode_state,
    encode_state,
    step,
)
from vespid.store.executions import CloudWork, ExecutionStore, Finish, Finished, NewRow, read_outputs
from vespid.store.failure import STORE_AWAY, STORE_REFUSED
from vespid.store.pool import Database
from vespid.store.runs import Created, NewRun
from vespid.store.steps import LoadedRun, StepItem, StepStore, StepWritten, step_written
from vespid_protocol.codes import Code
from vespid_protocol.ids import OrgId, ProcessId, RequestId, RunId, WorkflowId

log = structlog.get_logger("vespid.dispatch.stepper")

STEPS = Counter("vespid_steps_total", "Steps of runs, by what came of them", ["outcome"])

# How often one call makes a step again because the run moved on; the due row brings back what is left.
CONFLICT_TRIES = 5
# Runs whose state this process remembers between two steps.
RUNS_REMEMBERED = 5_000
# A bigger input is read again rather than remembered.
INPUT_REMEMBERED_BYTES = 16_384
_EVENTS_OF_PEOPLE = frozenset({"approval_requested", "approval_decided"})


class CloudRunner(Protocol):
    """Runs work of the server's own kinds in this process."""

    def reserve(self) -> ProcessId | None:
        """Room for one more execution; the id of this process, or None when it is full."""

    def give_back(self) -> None:
        """The reserved room is not needed."""

    def launch(self, work: CloudWork) -> None:
        """Run what is leased to this process; takes the room that was reserved."""


class StepperSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The server's part of a run's policy."""

    # WORKFLOW_RETRY_ATTEMPTS counts in each run's maxAttempts; this is the pause.
    retry_backoff_ms: int = 5_000
    node_timeout_ms: int = 60_000
    event_payload_max_chars: int = 4_000
    github_api_base_url: str | None = None
    # WORKFLOW_CONTINUATION_QUEUE_NAME
    queue: str = "workflow-continuations"
    # A worker without gateway settings: remote nodes fail at once.
    remote_nodes: bool = True


class _Run(msgspec.Struct):
    """A run as this process last saw it."""

    version: int
    state: RunState
    plan: Plan
    context: RunContext


class _Decision(msgspec.Struct, frozen=True):
    """A step not written yet, the state it leads to, and how much cloud room was reserved for it."""

    item: StepItem
    state: RunState
    reserved: int
    # Whether people are asked by it, or need not answer any more.
    concerns_people: bool


class Stepper:
    """See the module."""

    def __init__(
        self,
        db: Database,
        steps: StepStore,
        executions: ExecutionStore,
        plans: Plans,
        organizations: Organizations,
        scheduler: Scheduler,
        mail: Mail,
        fanout: Fanout,
        meter: Meter,
        settings: StepperSettings,
        *,
        now_ms: Callable[[], int],
        cloud: CloudRunner | None = None,
    ) -> None:
        self._db = db
        self._steps = steps
        self._executions = executions
        self._plans = plans
        self._organizations = organizations
        self._scheduler = scheduler
        self._mail = mail
        self._fanout = fanout
        self._meter = meter
        self._settings = settings
        self._now_ms = now_ms
        self._cloud = cloud
        self._remembered: OrderedDict[RunId, _Run] = OrderedDict()
        # One step of a run at a time in this process: the second then finds the first one's version.
        self._turns: dict[RunId, tuple[asyncio.Lock, int]] = {}

    # --- steps of a worker ---------------------------------------------------------------------------------------

    async def step(self, org_id: OrgId, run_id: RunId) -> None:
        """Make every step that the run's input allows now. Raises what the store raises; the run stays due then."""
        async with self._turn(run_id):
            for _ in range(CONFLICT_TRIES):
                loaded = await self._steps.load(org_id, run_id)
                if loaded is None or loaded.finished:
                    self._remembered.pop(run_id, None)
                    return
                if await self._step_loaded(org_id, run_id, loaded):
                    return
                STEPS.labels("conflict").inc()
        # Others keep moving it, and each of them left it due if there was more to do.

    async def _step_loaded(self, org_id: OrgId, run_id: RunId, loaded: LoadedRun) -> bool:
        """One step from a fresh read; whether it was written."""
        try:
            run = await self._of_loaded(org_id, run_id, loaded)
            decision = await self._decide(org_id, run_id, run, input_of(loaded, self._now_ms()), loaded)
        except STORE_AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - told and counted
            return await self._give_up(org_id, run_id, loaded, error)
        try:
            with self._room_unless_written(decision) as taken:
                written = await self._steps.apply(decision.item)
                if written is None:
                    return False
                taken()
        except STORE_AWAY:
            raise
        except STORE_REFUSED as error:
            # Something in it cannot be written, and would not be the next time.
            return await self._give_up(org_id, run_id, loaded, error)
        STEPS.labels("written").inc()
        self._after(org_id, run_id, run, decision, written)
        return True

    async def _give_up(self, org_id: OrgId, run_id: RunId, loaded: LoadedRun, error: Exception) -> bool:
        """A bug of ours must not spin: the step is tried a few times, then the run fails and says so."""
        STEPS.labels("raised").inc()
        log.error("step_raised", run_id=run_id, exc_info=error)
        verdict = await self._steps.fail(org_id, run_id, loaded.version, type(error).__name__)
        if verdict == "failed":
            self._fanout.publish(run_channel(run_id), b"0")
            tell_org(self._fanout, org_id, "runs", run_id)
            tell_org(self._fanout, org_id, "approvals")
        return verdict != "conflict"

    # --- new runs ------------------------------------------------------------------------------------------------

    async def create(self, new: NewRun, create: Callable[[NewRun], Awaitable[Created]]) -> Created:
        """Create a run by `create`, with its first step where the machine can say that at once; else it is left due."""
        first = await self._decide_first(new)
        if first is None:
            return await create(new)
        run, decision = first
        with self._room_unless_written(decision) as taken:
            try:
                created = await create(msgspec.structs.replace(new, step=decision.item))
            except STORE_REFUSED as error:
                # Nothing is there. The run as it was asked for may yet be written; its worker tells what is wrong.
                log.warning("first_step_refused", run_id=new.id, error=repr(error))
                return await create(new)
            if created.step is not None:
                taken()
                STEPS.labels("written").inc()
                self._after(new.org, new.id, run, decision, created.step)
        return created

    async def _decide_first(self, new: NewRun) -> tuple[_Run, _Decision] | None:
        try:
            plan = await self._plans.get(new.org, WorkflowId(new.workflow_id))
            settings = await self._organizations.settings(new.org)
            context = self._context(
                new.org, new.id, new.workflow_id, plan.family_id, new.user_id, new.input, new.max_attempts, settings
            )
            run = _Run(0, RunState(), plan, context)
            return run, await self._decide(new.org, new.id, run, [Start()], None)
        except WorkflowMissing:
            return None
        except STORE_AWAY as error:
            log.warning("first_step_postponed", run_id=new.id, error=repr(error))
        except Exception:
            # Whoever steps it will meet the same, and count it.
            STEPS.labels("raised").inc()
            log.exception("step_raised", run_id=new.id)
        return None

    # --- results -------------------------------------------------------------------------------------------------

    async def finish(self, org_id: OrgId, run_id: RunId | None, end: RunEvent | None, finish: Finish) -> Finished:
        """Commit a result; where the machine can say at once what follows from it, in the same statement.

        `end` is the result as the machine's event; None (or no run): it is only committed. The verdict is the store's.
        """
        if finish.output is not None:
            finish = msgspec.structs.replace(finish, usage=self._meter.of_answer(bytes(finish.output)))
        if run_id is None or end is None:
            return await self._commit(finish)
        async with self._turn(run_id):
            decided = await self._decide_end(org_id, run_id, end, finish.request)
            if decided is None:
                finished = await self._commit(finish)
            else:
                run, decision = decided
                with self._room_unless_written(decision) as taken:
                    finished = await self._commit(msgspec.structs.replace(finish, step=decision.item))
                    if finished.outcome == "applied" and finished.detail is not None:
                        taken()
                        STEPS.labels("written").inc()
                        self._after(org_id, run_id, run, decision, step_written(finished.detail))
            if finished.outcome in ("deferred", "cancelled"):
                self._remembered.pop(run_id, None)
                self.wake(org_id, run_id)
            return finished

    async def _commit(self, finish: Finish) -> Finished:
        finished = await self._executions.finish(finish)
        if finished.is_metered and finish.usage is not None:
            self._meter.recorded(finish.usage)
        return finished

    async def _decide_end(
        self, org_id: OrgId, run_id: RunId, end: RunEvent, request_id: RequestId
    ) -> tuple[_Run, _Decision] | None:
        """The step that a result leads to; None where it has to be left to a worker."""
        try:
            run = self._remembered.get(run_id)
            if run is None:
                loaded = await self._steps.load(org_id, run_id)
                if loaded is None or loaded.finished or loaded.cursor is None or loaded.ends or loaded.cancel_requested:
                    return None
                run = await self._of_loaded(org_id, run_id, loaded)
            decision = await self._decide(org_id, run_id, run, [end], None)
        except Exception:
            log.exception("step_raised", run_id=run_id, request_id=request_id)
            return None
        if not decision.item.events:
            # The machine knows nothing of this attempt; the worker marks it applied when it next steps.
            return None
        return run, decision

    def wake(self, org_id: OrgId, run_id: str) -> None:
        """Have some worker step the run now."""
        self._mail.wake(self._settings.queue, run_item(org_id, run_id))

    # --- inner ---------------------------------------------------------------------------------------------------

    async def _of_loaded(self, org_id: OrgId, run_id: RunId, loaded: LoadedRun) -> _Run:
        settings = settings_of(loaded.settings)
        self._organizations.learn(org_id, settings)
        plan = await self._plans.get(org_id, WorkflowId(str(loaded.workflow_id)))
        context = self._context(
            org_id,
            run_id,
            str(loaded.workflow_id),
            plan.family_id,
            text_or_none(loaded.requested_by_user_id),
            None if loaded.input is None else msgspec.Raw(loaded.input),
            loaded.max_attempts,
            settings,
        )
        state = RunState() if loaded.cursor is None else decode_state(loaded.cursor)
        return _Run(loaded.version, state, plan, context)

    def _context(
        self,
        org_id: OrgId,
        run_id: RunId,
        workflow_id: str,
        family_id: str,
        user_id: str | None,
        given: msgspec.Raw | None,
        max_attempts: int,
        settings: OrgSettings,
    ) -> RunContext:
        return RunContext(
            organization_id=org_id,
            run_id=run_id,
            workflow_id=workflow_id,
            family_id=family_id,
            user_id=user_id,
            now_ms=self._now_ms(),
            input=given,
            policy=RunPolicy(
                run_retry=Backoff(max_attempts, self._settings.retry_backoff_ms),
                node_timeout_ms=self._settings.node_timeout_ms,
                event_payload_max_chars=self._settings.event_payload_max_chars,
                settings=settings,
                github_api_base_url=self._settings.github_api_base_url,
            ),
        )

    async def _decide(
        self, org_id: OrgId, run_id: RunId, run: _Run, events: Sequence[RunEvent], loaded: LoadedRun | None
    ) -> _Decision:
        """Fold the events into one step."""
        state = run.state
        context = msgspec.structs.replace(run.context, now_ms=self._now_ms())
        emitted: list[object] = []
        rows: list[NewRow] = []
        cancels: list[str] = []
        concerns_people = False
        for event in events:
            while True:
                try:
                    transition = step(run.plan, state, event, context)
                    break
                except OutputsMissing as missing:
                    context.outputs = {**context.outputs, **await self._outputs(org_id, run_id, missing.node_ids)}
            state = transition.state
            if isinstance(event, NodeSucceeded):
                context.outputs = {**context.outputs, event.node_id: event.output}
            emitted += [event_item(emit) for emit in transition.emits]
            cancels += [cancel.request_id for cancel in transition.cancels]
            # What is cancelled may be a question.
            concerns_people |= bool(transition.cancels) or any(
                emit.event_type in _EVENTS_OF_PEOPLE for emit in transition.emits
            )
            rows += [
                execution_row(org_id, run_id, context.workflow_id, context.user_id, execution)
                for execution in transition.dispatches
            ]
        reserved = 0
        for index, row in enumerate(rows):
            holder = None
            if self._cloud is not None and row.placement in ("cloud", "gateway"):
                holder = self._cloud.reserve()
            if holder is not None:
                rows[index] = msgspec.structs.replace(row, holder=holder)
                reserved += 1
        item = StepItem(
            org=org_id,
            run=run_id,
            version=run.version,
            status=state.status,
            attempt=state.attempt_count,
            cursor=msgspec.Raw(encode_state(state)),
            error=state.error,
            error_message=state.error_message,
            next_attempt_at=state.next_attempt_at,
            due_at=state.next_due_at,
            started=run.state.phase == "queued" and state.phase != "queued",
            finished=state.is_terminal,
            events=emitted,
            executions=rows,
            cancels=cancels,
            applied=[] if loaded is None else [end.request_id for end in loaded.ends],
        )
        return _Decision(item, state, reserved, concerns_people)

    async def _outputs(self, org_id: OrgId, run_id: RunId, node_ids: frozenset[str]) -> dict[str, object]:
        async with self._db.tenant(org_id) as connection:
            found = await read_outputs(connection, run_id, sorted(node_ids))
        # A node without an output (skipped, say) has none to give; None ends the asking.
        return {node_id: found.get(node_id) for node_id in node_ids}

    def _after(self, org_id: OrgId, run_id: RunId, run: _Run, decision: _Decision, written: StepWritten) -> None:
        """What a written step sets in motion. All of it is soft: sweeps find what is lost here."""
        item = decision.item
        run.version, run.state = written.version, decision.state
        self._remember(run_id, run, is_over=item.finished)
        if item.events:
            self._fanout.publish(run_channel(run_id), b"%d" % written.seq)
        if item.started or item.finished:
            tell_org(self._fanout, org_id, "runs", run_id)
        if decision.concerns_people:
            tell_org(self._fanout, org_id, "approvals")
        if written.cancelled:
            self.wake(org_id, run_id)
        for request_id in written.cancelled:
            self._scheduler.launch_release(RequestId(request_id), org_id)
        for cancelling in written.cancelling:
            if cancelling.executor_id is not None:
                self._scheduler.cancel_order(
                    cancelling.request_id, cancelling.executor_id, cancelling.lease_epoch, "run no longer needs it"
                )
            elif cancelling.holder is not None:
                self._scheduler.cancel_own(
                    cancelling.request_id, cancelling.holder, cancelling.lease_epoch, "run no longer needs it"
                )
        for row in item.executions:
            if isinstance(row, NewRow):
                self._launch(row)

    def _launch(self, row: NewRow) -> None:
        if row.placement == "person":
            # They see it on their list; nobody is woken.
            return
        if row.placement == "executor":
            if self._settings.remote_nodes:
                self._scheduler.launch([Wanted.of_row(row)])
            else:
                self._scheduler.launch_refusal(row.request_id, row.org, Code.GATEWAY_NOT_CONFIGURED)
        elif row.holder is not None and self._cloud is not None:
            self._cloud.launch(cloud_work(row))
        else:
            self._mail.wake(CLOUD_QUEUE, row.request_id)

    @contextlib.contextmanager
    def _room_unless_written(self, decision: _Decision) -> Iterator[Callable[[], None]]:
        """Give the reserved cloud room back unless the step was written; the callable given says that it was."""
        written = False

        def taken() -> None:
            nonlocal written
            written = True

        try:
            yield taken
        finally:
            if not written and self._cloud is not None:
                for _ in range(decision.reserved):
                    self._cloud.give_back()

    def _remember(self, run_id: RunId, run: _Run, *, is_over: bool) -> None:
        raw = run.context.input
        if is_over or (isinstance(raw, msgspec.Raw) and len(memoryview(raw)) > INPUT_REMEMBERED_BYTES):
            self._remembered.pop(run_id, None)
            return
        run.context.outputs = {}
        self._remembered[run_id] = run
        self._remembered.move_to_end(run_id)
        while len(self._remembered) > RUNS_REMEMBERED:
            self._remembered.popitem(last=False)

    @contextlib.asynccontextmanager
    async def _turn(self, run_id: RunId) -> AsyncIterator[None]:
        lock, waiting = self._turns.get(run_id) or (asyncio.Lock(), 0)
        self._turns[run_id] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns[run_id]
            if waiting == 1:
                del self._turns[run_id]
            else:
                self._turns[run_id] = (lock, waiting - 1)
