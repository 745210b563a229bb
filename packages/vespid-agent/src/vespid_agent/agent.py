"""The agent's desk: it carries out what the protocol decides, and ties link, journal and runner together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from vespid_agent.events import Events, Put
from vespid_agent.journal import Entry, EntryState, Journal, JournalError
from vespid_agent.link import Link
from vespid_agent.logs import Logger
from vespid_agent.result import failure_of
from vespid_agent.runner import Runner
from vespid_agent.sessions import refusal
from vespid_protocol import codec
from vespid_protocol import effects as fx
from vespid_protocol import journal as states
from vespid_protocol.agent_peer import AgentPeer
from vespid_protocol.codes import Code
from vespid_protocol.entries import Entry as PeerEntry
from vespid_protocol.frames import Event, ExecuteEvent, ExecuteReceived, ExecuteResult, Hello, Ping
from vespid_protocol.requests import Effects

# Tombstones kept in memory, where a duplicate is answered at once; older ones are found in the journal.
TOMBSTONES_MAX = 20_000
# A result smaller than this is not what made a frame too big.
SHRINK_MIN_BYTES = 64 * 1024
PURGE_EVERY_MS = 3_600_000


class Agent:
    """One executor's process, from an opened journal on. Also the runner's desk."""

    def __init__(
        self,
        journal: Journal,
        runner: Callable[[Agent], Runner],
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
        # requestIds whose results are to be read from the journal and sent.
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        # `execute_received` of requests that are being journaled.
        self._unsaid: dict[str, bytes] = {}
        self._events = Events()
        self._effects: dict[type, Callable[[Any], None]] = {
            fx.Send: self._send,
            fx.Start: self._start,
            fx.Stop: lambda effect: self.runner.stop(effect.request_id, effect.why),
            fx.Answer: lambda effect: self._answers.put_nowait(effect.request_id),
            fx.Adopt: lambda effect: self.runner.adopt(effect.request_id, effect.lease_epoch),
            fx.Bury: self._bury,
            fx.Forget: self._forget,
            fx.Deliver: self._deliver,
            fx.Welcomed: self._welcomed,
            fx.Counted: lambda effect: log.debug("counted", what=effect.what, detail=effect.detail),
            fx.Probe: lambda effect: self.link.probe(),
            fx.Close: lambda effect: self.link.close(effect),
            fx.Migrate: lambda effect: self.link.move(effect.after_ms),
            fx.Reconnect: lambda effect: self.link.reconnect(effect.after_ms),
            fx.Exit: lambda effect: self.link.exit(effect),
            fx.Shrink: lambda effect: self._answers.put_nowait(""),
        }
        self.runner = runner(self)
        self.link = link(self)

    def carry(self, effects: Effects) -> None:
        """Carry out what the protocol decided, in order."""
        for effect in effects:
            self._effects[type(effect)](effect)

    async def answer(self) -> None:
        """The task that sends results from the journal again; one at a time, as fast as the gateway reads."""
        while True:
            request_id = await self._answers.get()
            try:
                if request_id:
                    await self._answer(request_id)
                else:
                    await self._shrink()
            except JournalError as error:
                self._log.error("journal_unreadable", error=str(error))

    @property
    def unacknowledged(self) -> int:
        """How many results wait for their acknowledgement."""
        return sum(entry.state is states.State.FINISHED for entry in self.peer.entries.values())

    async def keep_house(self) -> None:
        """The task that forgets what is a day old, and finds out when a disk that was full takes writes again."""
        purge_at = 0
        while True:
            now = self.link.look_at_clock()
            self.runner.expire()
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
        if entry.result is None:
            message = "this request already ended here"
            result = failure_of(entry.request_id, None, Code.AGENT_DISCONNECTED, message)
        else:
            result = msgspec.json.decode(entry.result, type=ExecuteResult)
        self.carry(self.peer.finish(result, self.link.look_at_clock()))

    def ended(self, result: ExecuteResult, frame: bytes) -> None:
        unsaid = self._unsaid.pop(result.request_id, None)
        now = self.link.look_at_clock()
        entry = self.peer.entries.get(result.request_id)
        put = None if entry is None else self._event_put(entry, must=True)
        if put is not None:
            self._events.end(result.request_id, put, now)
        effects = self.peer.finish(result, now)
        if unsaid is not None and effects and self.peer.welcome is None:
            self.link.send(unsaid)  # a v2 gateway reads it from the result that follows at once
        for effect in effects:
            if type(effect) is fx.Send and effect.frame is result:
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

        def put(event: Event) -> bool:
            frame = codec.encode(ExecuteEvent(request_id=entry.request_id, event=event, lease_epoch=entry.lease_epoch))
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
            else:
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
            if type(frame) is Hello:
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
        self.journal.bury(effect.request_id)
        self.acknowledged.set()
        self._tombstones.append(effect.request_id)
        if len(self._tombstones) > TOMBSTONES_MAX:
            oldest = self._tombstones.popleft()
            entry = self.peer.entries.get(oldest)
            if entry is not None and entry.state is states.State.TOMBSTONE:
                del self.peer.entries[oldest]

    def _deliver(self, effect: fx.Deliver) -> None:
        reply = refusal(effect.frame)
        if reply is not None:
            self.carry(self.peer.tell(reply))

    def _welcomed(self, effect: fx.Welcomed) -> None:
        figures = effect.frame
        self.runner.max_frame_bytes = figures.max_frame_bytes
        self.link.retime()
        self._log.info(
            "welcomed", executor_id=figures.executor_id, tags=list(figures.tags), max_in_flight=self.peer.max_in_flight
        )

    # --- results from the journal ----------------------------------------------------------------------------------

    async def _answer(self, request_id: str) -> None:
        entry = await self.journal.read(request_id)
        kept = self.peer.entries.get(request_id)
        outbox = self.link.outbox
        if kept is None or kept.state is not states.State.FINISHED or outbox is None:
            return
        if entry is None or entry.result is None:  # it ended here long ago, and was asked for again
            message = "this request already ended here"
            lost = failure_of(request_id, kept.lease_epoch, Code.AGENT_DISCONNECTED, message)
            outbox.put(codec.encode(lost))
            return
        if entry.state is EntryState.ABANDONED:
            self.journal.revive(request_id, kept.lease_epoch or 0)
        frame = entry.result
        result = msgspec.json.decode(frame, type=ExecuteResult)
        if result.lease_epoch != kept.lease_epoch:
            frame = codec.encode(msgspec.structs.replace(result, lease_epoch=kept.lease_epoch))
        if len(frame) > self.peer.max_frame_bytes:
            frame = await self._replaced(entry, len(frame))
        await outbox.room()
        self.link.look_at_clock()
        outbox.put(frame)

    async def _shrink(self) -> None:
        entry = await self.journal.largest()
        if entry is not None and entry.result is not None and len(entry.result) >= SHRINK_MIN_BYTES:
            await self._replaced(entry, len(entry.result))

    async def _replaced(self, entry: Entry, length: int) -> bytes:
        """`failed RESULT_TOO_LARGE` in the place of a result that the gateway cannot take."""
        message = f"the result takes {length} bytes as a frame, more than the gateway takes"
        frame = codec.encode(failure_of(entry.request_id, entry.lease_epoch or None, Code.RESULT_TOO_LARGE, message))
        await self.journal.replace(entry.request_id, frame)
        return frame
