"""The agent's desk: it carries out what the protocol decides, and ties link, journal and runner together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from vespid_agent.answers import Answers, end_of
from vespid_agent.events import Events, Put
from vespid_agent.journal import Entry, EntryState, Journal
from vespid_agent.link import Link
from vespid_agent.logs import Logger
from vespid_agent.outbox import Outbox
from vespid_agent.runner import Runner
from vespid_agent.sessions.ending import TurnEnd
from vespid_agent.sessions.host import SessionHost
from vespid_protocol import codec
from vespid_protocol import effects as fx
from vespid_protocol import journal as states
from vespid_protocol.agent_peer import AgentPeer
from vespid_protocol.effects import SessionReply
from vespid_protocol.entries import Entry as PeerEntry
from vespid_protocol.frames import (
    Event,
    ExecuteEvent,
    ExecuteReceived,
    ExecuteResult,
    Hello,
    Ping,
    SessionTurn,
    TurnDelta,
    TurnEvent,
)
from vespid_protocol.requests import Effects, Outcome

# Tombstones kept in memory, where a duplicate is answered at once; older ones are found in the journal.
TOMBSTONES_MAX = 20_000
PURGE_EVERY_MS = 3_600_000


class Agent:
    """One executor's process, from an opened journal on. Also the desk of the runner and of the sessions."""

    def __init__(
        self,
        journal: Journal,
        runner: Callable[[Agent], Runner],
        sessions: Callable[[Agent], SessionHost],
        peer: AgentPeer,
        link: Callable[[Agent], Link],
        log: Logger,
    ) -> None:
        self.journal = journal
        self.peer = peer
        # Set at each acknowledgement.
        self.acknowledged = asyncio.Event()
        self._log = log
        self._tombstones: deque[str] = deque()
        self.answers = Answers(journal, peer, log)
        # `execute_received` of requests that are being journaled.
        self._unsaid: dict[str, bytes] = {}
        self._events = Events()
        # The socket's, as of its first hello and of its first welcome.
        self._greeted_on: Outbox | None = None
        self._welcomed_on: Outbox | None = None
        self._effects: dict[type, Callable[[Any], None]] = {
            fx.Send: self._send,
            fx.Start: self._start,
            fx.Stop: lambda effect: self.runner.stop(effect.request_id, effect.why),
            fx.Answer: lambda effect: self.answers.wanted(effect.request_id),
            fx.Adopt: lambda effect: self.runner.adopt(effect.request_id, effect.lease_epoch),
            fx.Bury: self._bury,
            fx.Forget: self._forget,
            fx.Deliver: self._deliver,
            fx.Welcomed: self._welcomed,
            fx.Counted: lambda effect: log.debug("counted", what=effect.what, detail=effect.detail),
            fx.Probe: lambda effect: self.link.probe(),
            fx.Close: lambda effect: self.link.close(effect),
            fx.Migrate: lambda effect: self.link.move(effect.after_ms),
            fx.Reconnect: self._reconnect,
            fx.Exit: lambda effect: self.link.exit(effect),
            fx.Shrink: lambda effect: self.answers.too_big(),
        }
        self.runner = runner(self)
        self.sessions = sessions(self)
        self.link = link(self)

    def carry(self, effects: Effects) -> None:
        """Carry out what the protocol decided, in order."""
        for effect in effects:
            self._effects[type(effect)](effect)

    @property
    def unacknowledged(self) -> int:
        """How many results wait for their acknowledgement."""
        return sum(entry.state is states.State.FINISHED for entry in self.peer.entries.values())

    @property
    def events_bytes(self) -> int:
        """Of events that may still have to be sent."""
        return self._events.size

    @property
    def at_work(self) -> int:
        """How many requests and turns are not over."""
        return len(self.runner) + len(self.sessions.turns)

    async def idle(self) -> None:
        """Returns when nothing is at work."""
        while self.at_work:
            await self.runner.idle()
            await self.sessions.turns.idle()

    def stop_work(self) -> None:
        """The process ends: everything is to stop."""
        self.runner.stop_all("drained")
        self.sessions.turns.stop_all("drained")

    async def close(self) -> None:
        """Cancel what still runs and wait until each has cleaned up."""
        await self.runner.close()
        await self.sessions.close()

    async def keep_house(self) -> None:
        """The task that forgets what is a day old, and finds out when a disk that was full takes writes again."""
        purge_at = 0
        while True:
            now = self.link.look_at_clock()
            self.runner.expire()
            self.sessions.turns.tend()
            if not self.journal.healthy or now >= purge_at:
                purge_at = now + PURGE_EVERY_MS
                self.journal.purge()
            if self.peer.is_open:
                # A gateway that had heard nothing for so long would have closed this socket.
                self._events.confirm(now - self.peer.stale_ms)
            await asyncio.sleep(1)

    # --- the runner's desk -----------------------------------------------------------------------------------------

    def may_start(self, request_id: str) -> bool:
        now = self.link.look_at_clock()
        unsaid = self._unsaid.pop(request_id, None)
        if not self.peer.may_start(request_id, now):
            return False
        if unsaid is not None:
            self.link.send(unsaid)
        return True

    def declined(self, request_id: str) -> None:
        self._unsaid.pop(request_id, None)
        self.carry(self.peer.decline(request_id, self.link.look_at_clock()))

    def known(self, entry: Entry) -> None:
        self._unsaid.pop(entry.request_id, None)
        self._log.info("known_request", request_id=entry.request_id, state=entry.state.name.lower())
        if entry.state is EntryState.ABANDONED:
            self.journal.revive(entry.request_id, entry.lease_epoch)
        self.carry(self.peer.finish(end_of(entry, self.peer.entries.get(entry.request_id)), self.link.look_at_clock()))

    def ended(self, result: ExecuteResult, frame: bytes) -> None:
        unsaid = self._unsaid.pop(result.request_id, None)
        self._end(result, frame, unsaid)

    def _end(self, end: Outcome, frame: bytes, unsaid: bytes | None = None) -> None:
        """Tell what is in the journal; `frame` is its bytes, unless a newer epoch holds."""
        now = self.link.look_at_clock()
        entry = self.peer.entries.get(end.request_id)
        put = None if entry is None else self._event_put(entry, must=True)
        if put is not None:
            self._events.end(end.request_id, put, now)
        effects = self.peer.finish(end, now)
        if unsaid is not None and effects and self.peer.welcome is None:
            self.link.send(unsaid)  # a v2 gateway reads it from the result that follows at once
        for effect in effects:
            if type(effect) is fx.Send and effect.frame is end:
                self.link.send(frame)
            else:
                self.carry((effect,))

    def event(self, request_id: str, event: Event) -> None:
        now = self.link.look_at_clock()
        entry = self.peer.entries.get(request_id)
        if entry is not None and entry.stopping != "trust_ended":
            self._events.add(request_id, event, self._event_put(entry), now)

    def _event_put(self, entry: PeerEntry, *, must: bool = False) -> Put | None:
        """What puts events of a request on the present socket; None where nothing may be said of it now.

        `must`: whether the socket keeps up or not.
        """
        outbox = self.link.outbox
        if outbox is None or not self.peer.is_open or entry.stopping == "trust_ended":
            return None
        if entry.session_id is not None and not self.speaks_v2:
            return None

        def put(event: Event) -> bool:
            frame = codec.encode(_event_frame(entry, event))
            if not must:
                return outbox.put_event(frame)
            outbox.put(frame)
            return True

        return put

    def _replay_events(self) -> None:
        """Behind the hello, ahead of every result."""
        now = self.link.look_at_clock()
        for request_id in self._events:
            entry = self.peer.entries.get(request_id)
            if entry is None or entry.state not in (states.State.STARTED, states.State.FINISHED):
                self._events.forget(request_id)
            elif entry.session_id is None:
                self._events.replay(request_id, self._event_put(entry), now)

    # --- the sessions' desk ------------------------------------------------------------------------------------------

    @property
    def speaks_v2(self) -> bool:
        return self.peer.welcome is not None

    def turn_delta(self, order: SessionTurn, text: str, *, is_v2: bool) -> bool:
        outbox = self.link.outbox
        if outbox is None or not self.peer.is_open or (is_v2 and not self.speaks_v2):
            return False
        delta = TurnDelta(request_id=order.request_id, session_id=order.session_id, content=text)
        return outbox.put_event(codec.encode(delta))

    def turn_ended(self, end: TurnEnd, frame: bytes) -> None:
        self._end(end, frame)

    def turn_abandoned(self, request_id: str) -> None:
        self.peer.abandon(request_id, self.link.look_at_clock())

    def tell(self, frame: SessionReply) -> None:
        self.carry(self.peer.tell(frame))

    def greet(self) -> None:
        self.carry(self.peer.update(self.peer.identity))

    def _repeat_turns(self) -> None:
        """A new socket's gateway begins the text of each running turn anew, and knows events by their seq."""
        self.sessions.turns.repeat()
        now = self.link.look_at_clock()
        for request_id in self._events:
            entry = self.peer.entries.get(request_id)
            if entry is not None and entry.session_id is not None:
                self._events.replay(request_id, self._event_put(entry), now)

    # --- effects, one by one ---------------------------------------------------------------------------------------

    def _send(self, effect: fx.Send) -> None:
        frame = effect.frame
        if type(frame) is Ping:
            self.link.send_first(codec.encode(frame))
        elif type(frame) is ExecuteReceived and self._is_new(frame.request_id):
            self._unsaid[frame.request_id] = codec.encode(frame)  # "it is in my journal": once it is
        else:
            self.link.send(codec.encode(frame))
            # A hello that only tells what is new is of a socket that has the events.
            if type(frame) is Hello and self.link.outbox is not self._greeted_on:
                self._greeted_on = self.link.outbox
                self._replay_events()

    def _is_new(self, request_id: str) -> bool:
        entry = self.peer.entries.get(request_id)
        return entry is not None and entry.state is states.State.ACCEPTED

    def _start(self, effect: fx.Start) -> None:
        order = effect.frame
        if self.journal.healthy:
            self.runner.start(order)
        else:
            self.declined(order.request_id)

    def _forget(self, effect: fx.Forget) -> None:
        self._events.forget(effect.request_id)
        self.journal.forget(effect.request_id)

    def _bury(self, effect: fx.Bury) -> None:
        self._events.forget(effect.request_id)
        buried = self.peer.entries.get(effect.request_id)
        if buried is not None and buried.session_id is not None:
            self.sessions.acknowledged(buried.session_id, effect.request_id)
        self.journal.bury(effect.request_id)
        self.acknowledged.set()
        self._tombstones.append(effect.request_id)
        if len(self._tombstones) > TOMBSTONES_MAX:
            oldest = self._tombstones.popleft()
            entry = self.peer.entries.get(oldest)
            if entry is not None and entry.state is states.State.TOMBSTONE:
                del self.peer.entries[oldest]

    def _reconnect(self, effect: fx.Reconnect) -> None:
        self.sessions.disconnected()
        self.link.reconnect(effect.after_ms)

    def _deliver(self, effect: fx.Deliver) -> None:
        self.sessions.deliver(effect.frame)

    def _welcomed(self, effect: fx.Welcomed) -> None:
        figures = effect.frame
        self.runner.max_frame_bytes = self.sessions.turns.max_frame_bytes = figures.max_frame_bytes
        if self.link.outbox is not self._welcomed_on:  # and not because it was greeted again
            self._welcomed_on = self.link.outbox
            self._repeat_turns()
        self.link.retime()
        self._log.info(
            "welcomed", executor_id=figures.executor_id, tags=list(figures.tags), max_in_flight=self.peer.max_in_flight
        )


def _event_frame(entry: PeerEntry, event: Event) -> ExecuteEvent | TurnEvent:
    if entry.session_id is not None:
        return TurnEvent(request_id=entry.request_id, session_id=entry.session_id, event=event)
    return ExecuteEvent(request_id=entry.request_id, event=event, lease_epoch=entry.lease_epoch)
