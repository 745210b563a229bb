"""The internal dispatch routes: one request to an executor, from whoever holds the service token (`api.md` §8).

Asynchronous: the row is committed before the answer. Synchronous: an executor is chosen first, so that row and lease
are one commit; then the caller waits for a future that the result wakes.
"""

import asyncio
from typing import Literal

import msgspec
import structlog

from vespid.bus.choice import Cold, Held, NoneReason, Refused, Reserved
from vespid.bus.errors import BusError
from vespid.bus.messages import OfferAnswered, OfferRefused
from vespid.dispatch.ending import cancel_request
from vespid.dispatch.house import House
from vespid.dispatch.scheduler import EDGES_TRIED, Wanted, refusal_code
from vespid.dispatch.waiters import Ended, Notice, Unanswered, Waiters
from vespid.errors import ApiError
from vespid.gateway.brain.body import ASYNC_TIMEOUT_MAX_MS, TIMEOUT_MAX_MS, DispatchBody, row_of
from vespid.gateway.brain.refusals import nobody, not_now
from vespid.gateway.brain.secret_courier import SecretCourier
from vespid.security.envelope import SecretValue
from vespid.store.executions import NewRow, Standing
from vespid_protocol.ids import ExecutorId, RequestId

log = structlog.get_logger("vespid.gateway.brain.dispatch")

# How much longer than its timeout a synchronous call is kept open.
ANSWER_GRACE_MS = 15_000
# Executors that may refuse one request before its caller is told.
CHOICES_MAX = 4
# An edge answers an offer within milliseconds; when a reservation has expired (5 s), nobody will any more.
OFFER_ANSWER_S = 6.0

_encode = msgspec.json.Encoder().encode


class Outcome(msgspec.Struct, frozen=True, rename="camel"):
    """What a dispatch answered: `output` undecoded."""

    status: Literal["succeeded", "failed"]
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class Dispatched(msgspec.Struct, frozen=True, rename="camel"):
    """What an asynchronous dispatch answered."""

    request_id: str
    dispatched: bool
    cached: bool | msgspec.UnsetType = msgspec.UNSET


class Dispatcher:
    """See the module."""

    def __init__(self, house: House, waiters: Waiters, courier: SecretCourier, *, keep_ms: int) -> None:
        self._house = house
        self._waiters = waiters
        self._courier = courier
        self._keep_ms = keep_ms

    # --- asynchronous ------------------------------------------------------------------------------------------------

    async def dispatch_async(self, body: DispatchBody) -> Dispatched:
        """The request is a committed row when this answers, and will become terminal by its deadlines."""
        if body.secret is not None:
            raise ApiError(
                400,
                "BAD_REQUEST",
                "An inline secret is for the synchronous route; name a stored one by secretRef.",
                {"fieldErrors": {"secret": ["only for the synchronous route"]}},
            )
        row = row_of(body, ASYNC_TIMEOUT_MAX_MS)
        work = Wanted.of_row(row)
        choice = None
        if row.on_unavailable == "fail":
            standing = await self._standing(row)
            if standing is not None:
                return _dispatched(row, standing)
            choice = await self._choose(work)
        standing = await self._house.executions.create(row)
        if standing.outcome == "conflict":
            raise _conflict(row.request_id)
        if standing.outcome == "exists" and standing.state not in ("pending",):
            return _dispatched(row, standing)
        if not isinstance(choice, (Reserved, Held)) or not await self._send(row, choice, create=False):
            self._house.scheduler.launch([work])
        return Dispatched(row.request_id, dispatched=True)

    # --- synchronous -------------------------------------------------------------------------------------------------

    async def dispatch(self, body: DispatchBody) -> Outcome:
        """Answers when the request is terminal. 504 GATEWAY_TIMEOUT cancels nothing."""
        row = row_of(body, TIMEOUT_MAX_MS)
        wait_ms = (row.max_wait_ms or 0) if row.on_unavailable == "wait" else 0
        loop = asyncio.get_running_loop()
        until = loop.time() + (row.timeout_ms + wait_ms + ANSWER_GRACE_MS) / 1000
        secret = None if body.secret is None else SecretValue(body.secret)
        try:
            async with asyncio.timeout_at(until):
                return await self._dispatch(row, secret)
        except TimeoutError:
            raise ApiError(504, "GATEWAY_TIMEOUT", "The gateway has no answer yet; read the result later.") from None
        finally:
            self._courier.forget(row.request_id)

    async def _dispatch(self, row: NewRow, secret: SecretValue | None) -> Outcome:
        excluded: frozenset[ExecutorId] = frozenset()
        for _ in range(CHOICES_MAX):
            asked: ExecutorId | None = None
            with self._waiters.wait(row.request_id) as notice:
                if row.on_unavailable == "wait":
                    await self._create_and_offer(row, secret)
                else:
                    asked = await self._offer_new(row, secret, excluded)
                told = await (notice if asked is None else _answer_to_offer(notice))
            if isinstance(told, Unanswered) and asked and await self._house.executions.read(row.request_id) is None:
                # Its edge died over it, or the offer was lost: the reservation has expired by now.
                excluded |= {asked}
                continue
            if isinstance(told, OfferRefused):
                excluded |= {told.executor_id}
                continue
            if isinstance(told, Ended):
                return _outcome(told.status, told.output, told.error)
            if isinstance(told, OfferAnswered) and told.outcome == "conflict":
                raise _conflict(row.request_id)
            return await self._await_row(row.request_id)
        code, details = refusal_code(NoneReason.ALL_FULL, pinned=row.pin_executor_id is not None)
        raise ApiError(503, code, "No executor took the request.", details)

    async def _create_and_offer(self, row: NewRow, secret: SecretValue | None) -> None:
        if secret is not None:
            # It may wait for minutes, and for an edge nobody knows yet: no place for a value in memory.
            raise ApiError(
                400,
                "BAD_REQUEST",
                "An inline secret cannot wait; use schedule.onUnavailable fail, or secretRef.",
                {"fieldErrors": {"secret": ["not together with schedule.onUnavailable wait"]}},
            )
        standing = await self._house.executions.create(row)
        if standing.outcome == "conflict":
            raise _conflict(row.request_id)
        if standing.state in ("succeeded", "failed", "cancelled"):
            self._waiters.answered(OfferAnswered(row.request_id, "exists"))
        elif standing.outcome == "created":
            self._house.scheduler.launch([Wanted.of_row(row)])

    async def _offer_new(
        self, row: NewRow, secret: SecretValue | None, excluded: frozenset[ExecutorId]
    ) -> ExecutorId | None:
        """The executor whose edge was asked; None where the request stands already, and the waiters were told."""
        for _ in range(EDGES_TRIED):
            choice = await self._choose_new(row, excluded)
            if choice is None:
                return None
            if secret is not None:
                await self._courier.bring(choice.edge_id, row.request_id, secret)
            if await self._send(row, choice, create=True):
                return choice.executor_id
        raise not_now()

    async def _choose_new(self, row: NewRow, excluded: frozenset[ExecutorId]) -> Reserved | Held | None:
        try:
            choice = await self._choose(msgspec.structs.replace(Wanted.of_row(row), exclude=excluded))
        except ApiError:
            # "Nobody now" is an answer to new work only.
            standing = await self._standing(row)
            if standing is None:
                raise
        else:
            standing = await self._standing(row) if isinstance(choice, Held) else None
        if standing is not None:
            # It runs or is over: join whoever waits for it, once it is sure that it is the same request.
            self._waiters.answered(
                OfferAnswered(row.request_id, "conflict" if standing.outcome == "conflict" else "exists")
            )
            return None
        return choice

    async def _choose(self, work: Wanted) -> Reserved | Held:
        """An executor for it now. Raises the refusal that the caller is to see."""
        try:
            choice = await self._house.scheduler.ask(work, wait=False)
        except BusError as error:
            raise not_now() from error
        if isinstance(choice, (Reserved, Held)):
            return choice
        if isinstance(choice, Cold):
            raise not_now()
        reason = choice.reason if isinstance(choice, Refused) else NoneReason.ALL_FULL
        raise nobody(reason, pinned=work.pin is not None)

    async def _send(self, row: NewRow, choice: Reserved | Held, *, create: bool) -> bool:
        """False: the executor's gateway is gone, and it is not chosen again."""
        try:
            return await self._house.scheduler.propose(
                row.request_id,
                row.org,
                row.pool or "byon",
                choice,
                create=msgspec.Raw(_encode(row)) if create else msgspec.UNSET,
                reply_to=self._house.process_id if create else None,
            )
        except BusError as error:
            if create:
                raise ApiError(503, "GATEWAY_UNAVAILABLE", "The executor's gateway cannot be reached.") from error
            log.warning("offer_postponed", request_id=row.request_id, error=str(error))
            return True

    async def _await_row(self, request_id: RequestId) -> Outcome:
        """The outcome of a request that stands in Postgres, however it got there."""
        while True:
            with self._waiters.wait(request_id) as notice:
                row = await self._house.executions.read(request_id)
                if row is None:
                    raise ApiError(404, "RESULT_NOT_READY", "The request is no longer there.")
                if row.finished_at is not None:
                    return _outcome(row.state, row.output, row.error)
                told = await notice
            if isinstance(told, Ended):
                return _outcome(told.status, told.output, told.error)

    async def _standing(self, row: NewRow) -> Standing | None:
        """What stands under the id, where something does; a refusal must not hide it."""
        there = await self._house.executions.read(row.request_id)
        return None if there is None else await self._house.executions.create(row)

    # --- results and cancels -----------------------------------------------------------------------------------------

    async def result(self, request_id: RequestId) -> Outcome:
        """404 RESULT_NOT_READY until it is terminal, and again when it was kept long enough."""
        row = await self._house.executions.read(request_id)
        if row is None or row.finished_at is None:
            raise ApiError(404, "RESULT_NOT_READY", "There is no result for this request (yet).")
        age_ms = await self._house.executions.now_ms() - row.finished_at.timestamp() * 1000
        if row.applied and age_ms > self._keep_ms:
            raise ApiError(404, "RESULT_NOT_READY", "The result was kept for its time and is gone.")
        return _outcome(row.state, row.output, row.error)

    async def cancel(self, request_id: RequestId) -> None:
        """Ask for its end; a finished one stays as it is."""
        asked = await cancel_request(self._house, request_id, "cancelled by a caller")
        if asked.outcome == "unknown":
            raise ApiError(404, "NOT_FOUND", "There is no such request.")
        if asked.outcome == "cancelled":
            self._waiters.answered(OfferAnswered(request_id, "exists"))


async def _answer_to_offer(notice: "asyncio.Future[Notice]") -> Notice:
    """What comes of an offer, or `Unanswered` once its edge has had its time."""
    timer = notice.get_loop().call_later(OFFER_ANSWER_S, _give_up, notice)
    try:
        return await notice
    finally:
        timer.cancel()


def _give_up(notice: "asyncio.Future[Notice]") -> None:
    if not notice.done():
        notice.set_result(Unanswered())


def _conflict(request_id: str) -> ApiError:
    return ApiError(409, "CONFLICT", f"Request {request_id} was dispatched with something else in it.")


def _dispatched(row: NewRow, standing: Standing) -> Dispatched:
    if standing.outcome == "conflict":
        raise _conflict(row.request_id)
    if standing.state in ("succeeded", "failed", "cancelled"):
        return Dispatched(row.request_id, dispatched=False, cached=True)
    return Dispatched(row.request_id, dispatched=True)


def _outcome(state: str, output: bytes | None, error: str | None) -> Outcome:
    if state == "succeeded":
        return Outcome("succeeded", msgspec.UNSET if output is None else msgspec.Raw(output))
    code = error or ("NODE_EXECUTION_CANCELLED" if state == "cancelled" else "NODE_EXECUTION_FAILED")
    return Outcome("failed", msgspec.UNSET if output is None else msgspec.Raw(output), code)
