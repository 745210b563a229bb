"""What becomes of the requests that an agent is given: taken once, declined, stopped, answered.

The rows of `journal.py` decide; here is what each means for what is sent. Executions are leased under epochs; turns
have none, for their requestId names the try.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vespid_protocol import effects as fx
from vespid_protocol import journal
from vespid_protocol.codes import Code
from vespid_protocol.entries import Entries, Entry
from vespid_protocol.frames import (
    Execute,
    ExecuteAck,
    ExecuteCancel,
    ExecuteReceived,
    ExecuteResult,
    SessionCancel,
    SessionTurn,
    TurnError,
    TurnFinal,
)
from vespid_protocol.trust import Trust

Effects: TypeAlias = tuple[fx.Effect, ...]
Outcome: TypeAlias = ExecuteResult | TurnFinal | TurnError
_NOTHING: Effects = ()
# What is said of a request whose end is no longer at hand.
_ENDED = "this request already ended here"
# A turn's requestId is good for one try: once declined, always.
_NO_EPOCH = 0


class Requests:
    """For the whole life of the agent's process, across its sockets."""

    def __init__(self, entries: Entries, trust: Trust) -> None:
        self._entries = entries
        self._trust = trust
        # Lease epochs declined or given back on this socket: another copy of the same `execute` must not be taken after
        # all, for the gateway may have placed it elsewhere by then.
        self._refused: dict[str, int] = {}

    def opened(self) -> None:
        """A new socket: nothing was declined on it."""
        self._refused.clear()

    def may_start(self, request_id: str, now: int) -> bool:
        """`AgentPeer.may_start`."""
        entry = self._entries.get(request_id)
        if entry is None or entry.stopping is not None or entry.state is not journal.State.ACCEPTED:
            return False
        if entry.lease_epoch is not None and not self._trust.holds(now):
            self._give_back(entry, now)
            return False
        self._entries.move(entry, journal.Event.START, now)
        return True

    def decline(self, request_id: str, now: int) -> Effects:
        """`AgentPeer.decline`, whether there is a socket or not."""
        entry = self._entries.get(request_id)
        if entry is None or entry.state is not journal.State.ACCEPTED:
            return _NOTHING
        self._give_back(entry, now)
        if entry.session_id is not None:
            return (fx.Send(_declined_turn(request_id, entry.session_id)),)
        return self._decline(request_id, entry.lease_epoch)

    def finish(self, outcome: Outcome, now: int) -> Effects:
        """`AgentPeer.finish`, whether there is a socket or not."""
        entry = self._entries.get(outcome.request_id)
        if entry is None or not entry.is_active:
            return _NOTHING
        given_up = isinstance(outcome, ExecuteResult) and outcome.status == "failed"
        if entry.stopping == "trust_ended" and given_up:
            self._entries.move(entry, journal.Event.ABANDON, now)
            return _NOTHING
        self._entries.move(entry, journal.Event.FINISH, now)
        if isinstance(outcome, ExecuteResult) and outcome.lease_epoch != entry.lease_epoch:
            outcome = msgspec.structs.replace(outcome, lease_epoch=entry.lease_epoch)
        entry.sent += 1
        return (fx.Send(outcome),)

    def abandon(self, request_id: str, now: int) -> None:
        """`AgentPeer.abandon`."""
        entry = self._entries.get(request_id)
        if entry is not None and entry.is_active:
            self._entries.move(entry, journal.Event.ABANDON, now)

    def execute(self, frame: Execute, now: int, *, has_room: bool) -> Effects:
        """Taken, joined, declined, or answered from the journal."""
        entry = self._entries.get(frame.request_id)
        if entry is None:
            return self._accept(frame, now, has_room=has_room)
        held = -1 if entry.lease_epoch is None else entry.lease_epoch
        row = journal.find(entry.state, journal.Event.EXECUTE, held_epoch=held, epoch=frame.lease_epoch)
        effects: list[fx.Effect] = []
        for effect in row.effects:
            match effect:
                case journal.Effect.IGNORE:
                    effects.append(fx.Counted("stale_execute"))
                case journal.Effect.ADOPT_EPOCH if frame.lease_epoch is not None:
                    if entry.lease_epoch is not None:  # without one a result was good under whichever was granted
                        entry.outdated += entry.sent
                        entry.sent = 0
                    entry.lease_epoch = frame.lease_epoch
                    entry.on_lost = frame.on_lost
                    effects.append(fx.Adopt(frame.request_id, frame.lease_epoch))
                case journal.Effect.SAY_RECEIVED:
                    if entry.stopping == "trust_ended":
                        entry.stopping = "asked_again"
                    received = ExecuteReceived(request_id=frame.request_id, lease_epoch=entry.lease_epoch)
                    effects.append(fx.Send(received))
                case journal.Effect.ANSWER:
                    effects.append(self.answer(entry))
                case _:
                    continue
        self._entries.arrive(entry, row, now)
        return tuple(effects)

    def _accept(self, frame: Execute, now: int, *, has_room: bool) -> Effects:
        epoch = frame.lease_epoch
        leased_badly = epoch is not None and (
            not self._trust.holds(now) or epoch <= self._refused.get(frame.request_id, -1)
        )
        if not has_room or leased_badly:
            return self._decline(frame.request_id, epoch)
        entry = Entry(
            request_id=frame.request_id,
            state=journal.State.NONE,
            lease_epoch=epoch,
            on_lost=frame.on_lost,
        )
        self._entries.move(entry, journal.Event.EXECUTE, now)
        return (fx.Send(ExecuteReceived(request_id=frame.request_id, lease_epoch=epoch)), fx.Start(frame))

    def _decline(self, request_id: str, lease_epoch: int | None) -> Effects:
        if lease_epoch is not None:
            self._refused[request_id] = lease_epoch
        declined = ExecuteResult(
            request_id=request_id, status="failed", error=Code.EXECUTOR_OVER_CAPACITY, lease_epoch=lease_epoch
        )
        return (fx.Send(declined),)

    def _give_back(self, entry: Entry, now: int) -> None:
        """Accepted and never started: as if it had not come, and not to be taken under this epoch any more."""
        if entry.session_id is not None or entry.lease_epoch is not None:
            self._refused[entry.request_id] = entry.lease_epoch or _NO_EPOCH
        self._entries.move(entry, journal.Event.GIVE_BACK, now)

    def ack(self, frame: ExecuteAck, now: int) -> Effects:
        """The result or turn end is committed, or of no use any more."""
        entry = self._entries.get(frame.request_id)
        if entry is None or entry.state is not journal.State.FINISHED:
            return _NOTHING
        if entry.outdated:
            # Acknowledged because it was discarded; the result under the present epoch is still on its way.
            entry.outdated -= 1
            return _NOTHING
        self._entries.move(entry, journal.Event.ACK, now)
        return (fx.Bury(frame.request_id),)

    def cancel(self, frame: ExecuteCancel, now: int) -> Effects:
        """What runs is stopped; what has not come yet leaves a tombstone."""
        request_id = frame.request_id
        entry = self._entries.get(request_id)
        if entry is None:
            entry = Entry(request_id=request_id, state=journal.State.NONE, last_word=Code.NODE_EXECUTION_CANCELLED)
            self._entries.move(entry, journal.Event.CANCEL, now)
            return (fx.Bury(request_id), self.answer(entry))
        row = journal.find(entry.state, journal.Event.CANCEL)
        if journal.Effect.STOP in row.effects:
            if entry.stopping == "cancelled":
                return _NOTHING
            entry.stopping = "cancelled"
            return (fx.Stop(request_id, "cancelled"),)
        self._entries.arrive(entry, row, now)
        return (self.answer(entry),)

    def turn(self, frame: SessionTurn, now: int, *, has_room: bool) -> Effects:
        """A turn is taken once, like an `execute`; it has no lease, and no word is said of its arrival."""
        entry = self._entries.get(frame.request_id)
        if entry is None:
            if not has_room or frame.request_id in self._refused:
                self._refused[frame.request_id] = _NO_EPOCH
                return (fx.Send(_declined_turn(frame.request_id, frame.session_id)),)
            entry = Entry(request_id=frame.request_id, state=journal.State.NONE, session_id=frame.session_id)
            self._entries.move(entry, journal.Event.EXECUTE, now)
            return (fx.Deliver(frame),)
        entry.session_id = frame.session_id
        row = journal.find(entry.state, journal.Event.EXECUTE)
        self._entries.arrive(entry, row, now)
        return (self.answer(entry),) if journal.Effect.ANSWER in row.effects else _NOTHING

    def cancel_turn(self, frame: SessionCancel, now: int, *, speaks_v2: bool) -> Effects:
        """Delivered as well where the turn has ended: then the gateway did not want its answer."""
        entry = self._entries.get(frame.request_id)
        if entry is None and not speaks_v2:
            return (fx.Deliver(frame),)  # a base gateway means whichever turn of the session runs
        if entry is None:
            word = Code.TURN_CANCELLED
            entry = Entry(request_id=frame.request_id, state=journal.State.NONE, last_word=word)
            entry.session_id = frame.session_id
            self._entries.move(entry, journal.Event.CANCEL, now)
            return (fx.Bury(frame.request_id), self.answer(entry))
        entry.session_id = frame.session_id
        row = journal.find(entry.state, journal.Event.CANCEL)
        if journal.Effect.STOP in row.effects:
            if entry.stopping == "cancelled":
                return _NOTHING
            entry.stopping = "cancelled"
            return (fx.Deliver(frame),)
        self._entries.arrive(entry, row, now)
        return (fx.Deliver(frame), self.answer(entry))

    def stop_untrusted(self, now: int) -> list[fx.Effect]:
        """Trust has ended: what is leased is given back, or stopped unless it may wait."""
        effects: list[fx.Effect] = []
        for entry in list(self._entries.values()):
            if not entry.is_active or entry.lease_epoch is None or entry.stopping is not None:
                continue
            if entry.state is journal.State.ACCEPTED:
                self._give_back(entry, now)
            elif entry.on_lost != "wait":
                entry.stopping = "trust_ended"
                effects.append(fx.Stop(entry.request_id, "trust_ended"))
        return effects

    def answer(self, entry: Entry) -> fx.Effect:
        """The journaled result, or the last word where only a tombstone is left."""
        if entry.state is not journal.State.TOMBSTONE:
            entry.sent += 1
            return fx.Answer(entry.request_id, entry.lease_epoch)
        if entry.session_id is not None:
            return fx.Send(_ended_turn(entry.request_id, entry.session_id, entry.last_word))
        return fx.Send(
            ExecuteResult(
                request_id=entry.request_id,
                status="failed",
                error=entry.last_word,
                error_message=_ENDED,
                lease_epoch=entry.lease_epoch,
            )
        )


def _declined_turn(request_id: str, session_id: str) -> TurnError:
    return TurnError(
        request_id=request_id,
        session_id=session_id,
        code=Code.EXECUTOR_OVER_CAPACITY,
        message="this agent has no room for it just now",
    )


def _ended_turn(request_id: str, session_id: str, code: str) -> TurnError:
    return TurnError(request_id=request_id, session_id=session_id, code=code, message=_ENDED)
