"""Work of the server's own kinds: cloud connectors and `http.request`, run in this process under a lease of its own.

The same table, machine and sweep as for executors, with this process as the holder: when it dies, its lease passes and
the node's `onLost` decides.
"""

import asyncio
from collections.abc import Mapping

import msgspec
import structlog
from prometheus_client import Gauge

from vespid.bus.channels import CLOUD_QUEUE
from vespid.bus.messages import CancelOrder
from vespid.dispatch.house import House
from vespid.dispatch.rows import result_event, text_or_none
from vespid.dispatch.secrets import RequestSecrets, SecretUnavailable, resolve
from vespid.store.executions import CloudWork, Finish
from vespid.store.failure import STORE_AWAY, STORE_REFUSED
from vespid.store.secrets import SecretResolver
from vespid.worker import agent_run
from vespid.worker.agent_run import AgentRuns
from vespid.worker.kept_turn import TurnAbandoned
from vespid.worker.outcome import Outcome
from vespid_protocol.codes import Code
from vespid_protocol.ids import OrgId, ProcessId, RequestId, RunId
from vespid_runtime.connectors import ActionContext, ActionLimits, ConnectorError, Registry
from vespid_runtime.egress import GuardedHttp
from vespid_runtime.secrets import SecretMissing, fill_secrets

log = structlog.get_logger("vespid.worker.cloud")

RUNNING = Gauge("vespid_cloud_executions_running", "Executions that this worker runs itself")

PLACEMENTS = ("cloud", "gateway")
COMMIT_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
# How long work under way may go on once the process was asked to stop.
DRAIN_S = 25.0

_encode = msgspec.json.Encoder().encode


class _Action(msgspec.Struct, frozen=True, rename="camel"):
    """Payload of `connector.action` and `http.request`."""

    connector_id: str
    action_id: str
    input: object = None
    env: dict[str, object] | None = None


_decode_action = msgspec.json.Decoder(_Action).decode


class Cloud:
    """A Service, and the stepper's `CloudRunner`."""

    def __init__(
        self,
        house: House,
        registry: Registry,
        http: GuardedHttp,
        resolver: SecretResolver,
        agents: AgentRuns,
        *,
        concurrency: int,
        operator_base_urls: Mapping[str, str],
    ) -> None:
        self._house = house
        self._registry = registry
        self._http = http
        self._resolver = resolver
        self._agents = agents
        self._free = concurrency
        self._operator_base_urls = operator_base_urls
        self._tasks: set[asyncio.Task[None]] = set()
        # What runs, by request; an entry leaves when its result is committed.
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._stopping = False

    async def start(self) -> None:
        self._stopping = False
        await self._http.start()

    async def stop(self) -> None:
        """Take nothing new, finish what runs within DRAIN_S, and leave the rest to the sweep. Loops go on elsewhere."""
        self._stopping = True
        self._agents.hand_over()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._http.stop()

    @property
    def running(self) -> frozenset[str]:
        """The requests that this process works on."""
        return frozenset(self._running)

    def reserve(self) -> ProcessId | None:
        if self._stopping or self._free <= 0:
            return None
        self._free -= 1
        return self._house.process_id

    def give_back(self) -> None:
        self._free += 1

    def launch(self, work: CloudWork) -> None:
        older = self._running.get(work.request_id)
        if older is not None:  # its lease has passed while we were too busy to see it: nothing of it counts any more
            older.cancel()
        loop = asyncio.get_running_loop()
        running = self._running[work.request_id] = loop.create_task(self._run(work), name="cloud-run")
        task = loop.create_task(self._carry_out(work, running), name=f"cloud {work.request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def claim(self) -> int:
        """Take up pending work for which no process had room; how much there was."""
        room = 0 if self._stopping else self._free
        if room <= 0:
            return 0
        # Taken before the question, so that no step reserves the same room meanwhile.
        self._free -= room
        works: list[CloudWork] = []
        try:
            works = await self._house.executions.claim_cloud(
                self._house.process_id, PLACEMENTS, list(self._running), room
            )
        finally:
            self._free += room - len(works)
        for work in works:
            self.launch(work)
        return len(works)

    def stop_one(self, order: CancelOrder) -> None:
        """Somebody cancels work that runs here."""
        task = self._running.get(order.request_id)
        if task is not None:
            task.cancel()

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._free += 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("cloud_execution_lost", exc_info=error)

    async def _carry_out(self, work: CloudWork, running: "asyncio.Task[Outcome]") -> None:
        try:
            with RUNNING.track_inprogress():
                await asyncio.wait((running,))
                if not running.cancelled() and isinstance(running.exception(), TurnAbandoned):
                    await self._hand_over(work)
                    return
                cancelled = Outcome(error=Code.NODE_EXECUTION_CANCELLED, message="cancelled")
                await self._commit(work, cancelled if running.cancelled() else running.result())
        finally:
            running.cancel()
            if self._running.get(work.request_id) is running:
                del self._running[work.request_id]

    async def _run(self, work: CloudWork) -> Outcome:
        org_id = OrgId(str(work.organization_id))
        try:
            async with asyncio.timeout(work.timeout_ms / 1000):
                secrets = await resolve(self._resolver, org_id, work.secret_refs)
                return (await self._act(work, secrets)).fit(secrets.clear_values())
        except TurnAbandoned:
            raise
        except TimeoutError:
            return Outcome(error=Code.NODE_EXECUTION_TIMEOUT, message=f"not done within {work.timeout_ms} ms")
        except SecretUnavailable as error:
            return Outcome(error=error.code, message=error.message)
        except Exception as error:
            # A bug of ours or of a connector: the node fails, the worker lives.
            log.exception("cloud_execution_raised", request_id=work.request_id, kind=work.kind)
            return Outcome(
                error=Code.NODE_EXECUTION_FAILED, message=f"the worker could not run it: {type(error).__name__}"
            )

    async def _act(self, work: CloudWork, secrets: RequestSecrets) -> Outcome:
        if work.kind == agent_run.KIND:
            return await self._agents.run(work, secrets)
        if work.kind not in ("connector.action", "http.request"):
            return Outcome(error=Code.ENGINE_UNAVAILABLE, message=f"no engine for {work.kind} runs in this server")
        try:
            action = _decode_action(work.payload)
        except msgspec.DecodeError as error:
            return Outcome(error=Code.INVALID_ACTION_PAYLOAD, message=str(error))
        run_id = text_or_none(work.run_id) or work.request_id
        context = ActionContext(
            http=self._http,
            idempotency_key=f"{run_id}:{work.node_id}",
            request_id=work.request_id,
            limits=ActionLimits(timeout_ms=work.timeout_ms),
            operator_base_urls=self._operator_base_urls,
        )
        try:
            given = fill_secrets(
                {} if action.input is None else action.input,
                {secret_id: value.reveal() for secret_id, value in secrets.named.items()},
            )
            auth = None if secrets.auth is None else secrets.auth.reveal()
            return Outcome(await self._registry.run(action.connector_id, action.action_id, given, auth, context))
        except SecretMissing as missing:
            return Outcome(error=Code.SECRET_NOT_FOUND, message=str(missing))
        except ConnectorError as error:
            return Outcome(error=error.code, message=error.message, details=error.details or None)

    async def _hand_over(self, work: CloudWork) -> None:
        """Another process goes on with it: at once where the lease is still ours to give."""
        try:
            if await self._house.executions.hand_over(
                RequestId(work.request_id), self._house.process_id, work.lease_epoch
            ):
                self._house.mail.wake(CLOUD_QUEUE, work.request_id)
        except STORE_AWAY as error:
            # It passes with this process's lease.
            log.warning("hand_over_postponed", request_id=work.request_id, error=repr(error))

    async def _commit(self, work: CloudWork, result: Outcome) -> None:
        """Commit the result, however long Postgres takes to come back; past the deadline somebody else has acted."""
        finish = Finish(
            request=RequestId(work.request_id),
            process=self._house.process_id,
            epoch=work.lease_epoch,
            status="succeeded" if result.error is None else "failed",
            output=msgspec.Raw(_encode(result.output)),
            error=result.error,
            error_message=result.message,
            error_details=None if result.details is None else msgspec.Raw(_encode(result.details)),
            tail=result.tail,
        )
        event = result_event(
            work.node_id,
            work.attempt,
            output=result.output,
            error=result.error,
            message=result.message,
            details=result.details,
        )
        org_id = OrgId(str(work.organization_id))
        run_id = None if work.run_id is None else RunId(str(work.run_id))
        deadline = asyncio.get_running_loop().time() + work.timeout_ms / 1000
        attempt = 0
        while True:
            try:
                finished = await self._house.stepper.finish(org_id, run_id, event, finish)
            except STORE_AWAY as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                log.warning("cloud_result_postponed", request_id=work.request_id, error=repr(error))
                await asyncio.sleep(COMMIT_RETRY_S[min(attempt, len(COMMIT_RETRY_S) - 1)])
                attempt += 1
            except STORE_REFUSED as error:
                if finish.output is None and not finish.tail:
                    raise
                # Nothing of what it says can be kept; that it ended is, or its run would wait for the deadline.
                log.exception("cloud_result_refused", request_id=work.request_id)
                message = f"the result could not be stored ({type(error).__name__})"
                event = result_event(work.node_id, work.attempt, error=Code.NODE_EXECUTION_FAILED, message=message)
                finish = msgspec.structs.replace(
                    finish,
                    status="failed",
                    output=None,
                    error=Code.NODE_EXECUTION_FAILED,
                    error_message=message,
                    error_details=None,
                    tail=(),
                )
            else:
                if finished.outcome not in ("applied", "deferred", "cancelled", "duplicate"):
                    log.warning("cloud_result_refused", request_id=work.request_id, outcome=finished.outcome)
                return
