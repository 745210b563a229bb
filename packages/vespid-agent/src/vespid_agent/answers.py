"""Results and turn ends that are sent again, from the journal: one at a time, as fast as the gateway reads."""

from __future__ import annotations

import asyncio

import msgspec

from vespid_agent.journal import Entry, EntryState, Journal, JournalError
from vespid_agent.link import Link
from vespid_agent.logs import Logger
from vespid_agent.result import failure_of, without_loop
from vespid_agent.sessions.ending import lost, too_large
from vespid_protocol import codec
from vespid_protocol import journal as states
from vespid_protocol.agent_peer import AgentPeer
from vespid_protocol.codes import Code
from vespid_protocol.entries import Entry as PeerEntry
from vespid_protocol.frames import ExecuteResult
from vespid_protocol.requests import Outcome

# A result smaller than this is not what made a frame too big.
SHRINK_MIN_BYTES = 64 * 1024

_ENDED = "this request already ended here"
_decoder: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)


def end_of(entry: Entry, kept: PeerEntry | None) -> Outcome:
    """What the journal says of a request that is over; `kept` is what the peer knows of it."""
    if entry.result is not None:
        return _decoder.decode(entry.result)
    if kept is not None and kept.session_id is not None:
        return lost(entry.request_id, kept.session_id, _ENDED)
    return failure_of(entry.request_id, None, Code.AGENT_DISCONNECTED, _ENDED)


class Answers:
    """`wanted` and `too_big` from anywhere on the loop; `run` is the task that sends."""

    def __init__(self, journal: Journal, peer: AgentPeer, log: Logger) -> None:
        self._journal = journal
        self._peer = peer
        self._log = log
        # requestIds; an empty one where a frame was too big.
        self._wanted: asyncio.Queue[str] = asyncio.Queue()

    def wanted(self, request_id: str) -> None:
        self._wanted.put_nowait(request_id)

    def too_big(self) -> None:
        """The gateway closed the socket over a frame's size: the largest result must give way."""
        self._wanted.put_nowait("")

    async def run(self, link: Link) -> None:
        while True:
            request_id = await self._wanted.get()
            try:
                if request_id:
                    await self._answer(request_id, link)
                else:
                    await self._shrink()
            except JournalError as error:
                self._log.error("journal_unreadable", error=str(error))

    async def _answer(self, request_id: str, link: Link) -> None:
        entry = await self._journal.read(request_id)
        kept = self._peer.entries.get(request_id)
        outbox = link.outbox
        if kept is None or kept.state is not states.State.FINISHED or outbox is None:
            return
        if entry is None or entry.result is None:  # it ended here long ago, and was asked for again
            outbox.put(codec.encode(self._last_word(kept)))
            return
        if entry.state is EntryState.ABANDONED:
            self._journal.revive(request_id, kept.lease_epoch or 0)
        frame = entry.result
        end = _decoder.decode(frame)
        if isinstance(end, ExecuteResult) and end.lease_epoch != kept.lease_epoch:
            frame = codec.encode(msgspec.structs.replace(end, lease_epoch=kept.lease_epoch))
        if len(frame) > self._peer.max_frame_bytes:
            frame = await self._replaced(entry, end, len(frame))
        await outbox.room()
        link.look_at_clock()
        outbox.put(frame)

    def _last_word(self, kept: PeerEntry) -> Outcome:
        if kept.session_id is not None:
            return lost(kept.request_id, kept.session_id, _ENDED)
        return failure_of(kept.request_id, kept.lease_epoch, Code.AGENT_DISCONNECTED, _ENDED)

    async def _shrink(self) -> None:
        entry = await self._journal.largest()
        if entry is not None and entry.result is not None and len(entry.result) >= SHRINK_MIN_BYTES:
            await self._replaced(entry, _decoder.decode(entry.result), len(entry.result))

    async def _replaced(self, entry: Entry, end: Outcome, length: int) -> bytes:
        """What the gateway can take in place of what it cannot: the same without its loop, or `RESULT_TOO_LARGE`."""
        smaller: Outcome
        lighter = without_loop(end) if isinstance(end, ExecuteResult) else None
        if lighter is not None and len(codec.encode(lighter)) < min(length, self._peer.max_frame_bytes):
            smaller = lighter
        elif isinstance(end, ExecuteResult):
            message = f"the result takes {length} bytes as a frame, more than the gateway takes"
            smaller = failure_of(entry.request_id, entry.lease_epoch or None, Code.RESULT_TOO_LARGE, message)
        else:
            smaller = too_large(entry.request_id, end.session_id, length)
        frame = codec.encode(smaller)
        await self._journal.replace(entry.request_id, frame)
        return frame
