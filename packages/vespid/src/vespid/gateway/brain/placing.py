"""Finds hosts for turns: woken by whoever made a turn want one, and by a sweep for what no wake told of.

The one thing to know: nothing is held here. What this process knows of a session it has just read, and the edge that
has the host's socket leases the turn by one statement that looks at everything again. So two brains may look at one
session at once, and one that dies in between leaves nothing but a reservation that expires.
"""

import asyncio
import contextlib
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import EDGES, TURN_QUEUE, session_channel
from vespid.bus.choice import Held, Refused, Reserved, Waiting
from vespid.bus.errors import BusError
from vespid.bus.messages import CancelTurn, encode
from vespid.bus.session_news import Moved
from vespid.bus.session_news import encode as encode_news
from vespid.dispatch.backlog import Backlog
from vespid.dispatch.house import House
from vespid.dispatch.scheduler import Wanted
from vespid.dispatch.turn_wanted import wanted
from vespid.domain.placing import GRACE_MS, Attempt, Wish, attempts
from vespid.store.failure import STORE_FAILED
from vespid.store.turns import SweptTurn, TurnStore, TurnToPlace
from vespid.tasks import Tasks
from vespid_protocol.codes import Code
from vespid_protocol.ids import ExecutorId, OrgId, SessionId, turn_request_id

log = structlog.get_logger("vespid.gateway.brain.placing")

PLACED = Counter("vespid_turns_placed_total", "Looks at sessions, by what came of them", ["outcome"])

# Sessions that this process places at once.
CONCURRENCY = 16
SWEEP_S = 2.0
SWEEP_BATCH = 200
# Where its lost host may come back and nobody else is there.
LOOK_AGAIN_S = 1.0
# Hosts of dead edges that one turn may run into before it is left to the sweep.
EDGES_TRIED = 16

_AWAY: tuple[type[Exception], ...] = (BusError, *STORE_FAILED)


class Placing:
    """A Service: `CONCURRENCY` placers fed by the wake queue, and a sweep."""

    def __init__(self, house: House, turns: TurnStore) -> None:
        self._house = house
        self._turns = turns
        self._backlog = Backlog(house.mail, TURN_QUEUE, self._place, concurrency=CONCURRENCY, missed=self._sweep)
        # Turns whose wants were told by their commit: not in the backlog, where a wake for a later one would be merged.
        self._told = Tasks("placing")
        self._sweeper: asyncio.Task[None] | None = None
        self._later: set[asyncio.TimerHandle] = set()

    async def start(self) -> None:
        if self._sweeper is None:
            self._told.open()
            await self._backlog.start()
            self._sweeper = asyncio.create_task(self._sweep_on(), name="turn-sweep")

    async def stop(self) -> None:
        """Finish the looks under way; what waits is found by another brain or the next sweep."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is None:
            return
        for timer in self._later:
            timer.cancel()
        self._later.clear()
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper
        await self._told.close()
        await self._backlog.stop()

    def place(self, org_id: OrgId, session_id: SessionId, turn: TurnToPlace) -> bool:
        """Place what the commit that made it want a host has answered; False: this process does not see to it.

        What it wants may have changed by then. So may what was read a moment ago: the lease's statement judges both.
        """
        if self._sweeper is None or len(self._told) >= CONCURRENCY:
            return False
        self._told.start(self._place_told(org_id, session_id, turn))
        return True

    # --- what no wake told of ----------------------------------------------------------------------------------------

    async def _sweep_on(self) -> None:
        while True:
            try:
                while await self._sweep() >= SWEEP_BATCH:
                    pass
            except STORE_FAILED as error:
                log.warning("turn_sweep_postponed", error=repr(error))
            except Exception:
                # A bug of ours, or one odd row; the next sweep must come all the same.
                log.exception("turn_sweep_failed")
            await asyncio.sleep(SWEEP_S)

    async def _sweep(self) -> int:
        swept = await self._turns.sweep(SWEEP_BATCH)
        for row in swept:
            if row.action == "ended":
                await self._ended(row)
            self._backlog.add(OrgId(str(row.organization_id)), str(row.session_id))
        return len(swept)

    async def _ended(self, row: SweptTurn) -> None:
        """Its time was over, or its host: whoever has it stops, and its room is free."""
        org_id, session_id = OrgId(str(row.organization_id)), SessionId(str(row.session_id))
        executor_id = None if row.executor_id is None else ExecutorId(str(row.executor_id))
        if executor_id is not None:
            order = CancelTurn(row.request_id, session_id, org_id, executor_id, is_over=True)
            self._house.fanout.publish(EDGES, encode(order))
        await self._house.scheduler.released(row.request_id, org_id)
        self._moved(session_id, row.event_seq)

    # --- placing -----------------------------------------------------------------------------------------------------

    async def _place(self, org_id: OrgId, subject: str) -> None:
        session_id = SessionId(subject)
        turn = await self._turns.look(org_id, session_id)
        if turn is None:
            PLACED.labels("nothing").inc()
        else:
            await self._place_turn(org_id, session_id, turn)

    async def _place_told(self, org_id: OrgId, session_id: SessionId, turn: TurnToPlace) -> None:
        try:
            await self._place_turn(org_id, session_id, turn)
        except _AWAY as error:
            # It still wants a host, and the sweep finds it.
            log.warning("placing_postponed", session_id=session_id, error=repr(error))

    async def _place_turn(self, org_id: OrgId, session_id: SessionId, turn: TurnToPlace) -> None:
        request_id = turn_request_id(session_id, turn.user_seq, turn.turn_epoch + 1)
        if turn.waiting_reason is not None:
            # It stands in a line; which one may have to change, and it keeps its place by its age.
            await self._house.scheduler.forward(
                await self._house.capacity.release(request_id, org_id, only_unconfirmed=True)
            )
        wish = _wish(turn)
        work = wanted(org_id, request_id, turn)
        if wish.shunned is not None:
            work = msgspec.structs.replace(work, exclude=frozenset((wish.shunned,)))
        await self._choose(session_id, turn, wish, work)

    async def _choose(self, session_id: SessionId, turn: TurnToPlace, wish: Wish, work: Wanted) -> None:
        full: Attempt | None = None
        resting: Attempt | None = None
        away: ExecutorId | None = None
        reason = "NONE_CONNECTED"
        for attempt in attempts(wish):
            refused = await self._try(work, attempt)
            if refused is None:
                PLACED.labels("offered").inc()
                return
            if refused == "NONE_CONNECTED":
                away = away or attempt.pin
            elif refused == "NOT_TAKING":
                # It may be so for hours; a session that may leave it does.
                resting = resting or attempt
            elif refused == "NONE_MATCHES":
                reason = refused
            else:
                full = full or attempt
                if attempt.is_held_for:
                    break
        if (awaited := full or resting) is not None:
            await self._wait(session_id, turn, work, awaited)
        elif wish.may_come_back or (
            away is not None and await self._turns.is_cut_off(away, waiting_since=turn.created_at, within_ms=GRACE_MS)
        ):
            PLACED.labels("later").inc()
            await self._note_waiting(session_id, turn, work.org_id, reason, wish.lost or away)
            self._look_again(work.org_id, session_id)
        else:
            await self._fail(session_id, turn, work.org_id, reason, pinned=wish.only is not None)

    async def _try(self, work: Wanted, attempt: Attempt) -> str | None:
        """Why nobody can have it there now; None: it is offered, or the book cannot be asked and the sweep goes on."""
        asked = msgspec.structs.replace(work, pool=attempt.pool, pin=attempt.pin)
        for _ in range(EDGES_TRIED):
            choice = await self._house.scheduler.ask(asked, wait=False)
            if isinstance(choice, Refused):
                return str(choice.reason)
            if not isinstance(choice, (Reserved, Held)):
                return None
            if isinstance(choice, Held) and choice.confirmed:
                return None
            if await self._house.scheduler.propose(work.request_id, work.org_id, attempt.pool, choice):
                return None
        return "ALL_FULL"

    async def _wait(self, session_id: SessionId, turn: TurnToPlace, work: Wanted, attempt: Attempt) -> None:
        asked = msgspec.structs.replace(work, pool=attempt.pool, pin=attempt.pin)
        choice = await self._house.scheduler.ask(asked, wait=True)
        if isinstance(choice, Waiting):
            PLACED.labels("waits").inc()
            await self._note_waiting(session_id, turn, work.org_id, choice.reason.told, attempt.pin)
        elif isinstance(choice, (Reserved, Held)):
            await self._house.scheduler.propose(work.request_id, work.org_id, attempt.pool, choice)

    async def _note_waiting(
        self, session_id: SessionId, turn: TurnToPlace, org_id: OrgId, reason: str, busy: ExecutorId | None
    ) -> None:
        seq = await self._turns.note_waiting(org_id, session_id, turn.user_seq, turn.turn_epoch, reason, busy)
        self._moved(session_id, seq)

    async def _fail(
        self, session_id: SessionId, turn: TurnToPlace, org_id: OrgId, reason: str, *, pinned: bool
    ) -> None:
        PLACED.labels("failed").inc()
        code = Code.PINNED_AGENT_OFFLINE if pinned else Code.NO_AGENT_AVAILABLE
        message = _MESSAGES[reason]
        seq = await self._turns.fail_unplaced(
            org_id, session_id, turn.user_seq, turn.turn_epoch, code, message, msgspec.json.encode({"reason": reason})
        )
        if seq is not None:
            self._moved(session_id, seq)
            # The next message fares no better, and is told so.
            self._backlog.add(org_id, session_id)

    def _look_again(self, org_id: OrgId, session_id: SessionId) -> None:
        loop = asyncio.get_running_loop()
        self._later = {timer for timer in self._later if timer.when() > loop.time()}
        self._later.add(loop.call_later(LOOK_AGAIN_S, self._backlog.add, org_id, session_id))

    def _moved(self, session_id: SessionId, seq: int | None) -> None:
        if seq is not None:
            self._house.fanout.publish(session_channel(session_id), encode_news(Moved(seq)))


_MESSAGES = {
    "NONE_CONNECTED": "No agent is connected that could answer.",
    "NONE_MATCHES": "No connected agent has the engine and tags that this session asks for.",
}


def _wish(turn: TurnToPlace) -> Wish:
    return Wish(
        pool=turn.pool,
        only=_executor(turn.only_executor_id),
        pinned=_executor(turn.pinned_executor_id),
        pinned_pool=turn.pinned_pool,
        pin_policy=turn.pin_policy,
        lost=_executor(turn.lost_executor_id),
        lost_reason=turn.lost_reason,
        lost_ms=turn.lost_ms or 0,
    )


def _executor(executor_id: UUID | None) -> ExecutorId | None:
    return None if executor_id is None else ExecutorId(str(executor_id))
