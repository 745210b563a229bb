"""One session as this process sees it, shared by all its clients that have joined it.

It listens to the session's channel while anybody follows. Told that the session has moved, it reads what is new from
Postgres, once for all, and hands it on; who is behind (because it has just joined, or reads slowly) is given pages of
its own, read when it can take them, and nobody waits for it. Text is put together from deltas; where some are missing,
the host's edge is asked for the text so far. Hints may be lost: a slow look at Postgres finds what they meant.

What is read and what is heard meet in one place: a try's text is shown only once Postgres has said that this try is
the one that runs, by a read that also brought every event before it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import msgspec
import structlog

from vespid.bus import session_news
from vespid.bus.channels import session_channel
from vespid.bus.errors import BusError
from vespid.bus.messages import TextSoFar, TextWanted
from vespid.bus.ports import Fanout, Mail
from vespid.bus.session_news import Delta
from vespid.domain.moment import iso
from vespid.gateway.client.follower import Follower
from vespid.gateway.client.told import RESTARTED, Told, chunks, state_frame, tell
from vespid.gateway.client.turn_text import Heard, Key, TurnText
from vespid.store.failure import STORE_AWAY
from vespid.store.pool import Database
from vespid.store.session_reads import NEWS_MAX, NEWS_MAX_BYTES, SessionReader
from vespid.store.sessions import OpenTurn, SessionStanding, list_events
from vespid.tasks import Tasks
from vespid_protocol.client_frames import AgentDelta, SessionAck
from vespid_protocol.codec import encode
from vespid_protocol.ids import OrgId, ProcessId, SessionId

log = structlog.get_logger("vespid.gateway.client.session_view")

# Pages for clients that are behind, read at once in this process.
READS_AT_ONCE = 4
AGAIN_S = 1.0
# How long the text so far is waited for, and how often it is asked for without any answer.
TEXT_WITHIN_S = 1.0
TEXT_ASKED_MAX = 5
DELTAS_KEPT = 64


class Reader(Protocol):
    """The client's end of it: a socket."""

    @property
    def is_writable(self) -> bool:
        """Whether it keeps up; what is not written now is given when it does again."""

    def write(self, frames: Iterable[bytes]) -> None:
        """Send these."""

    def withhold(self, size: int) -> None:
        """So much was not given to it because it does not keep up."""

    def lost(self, session_id: SessionId) -> None:
        """The session is no more."""


class ViewDesk:
    """What the views of a process share."""

    def __init__(
        self,
        database: Database,
        reader: SessionReader,
        fanout: Fanout,
        mail: Mail,
        process_id: ProcessId,
        tasks: Tasks,
    ) -> None:
        self.database = database
        self.reader = reader
        self.fanout = fanout
        self.mail = mail
        self.process_id = process_id
        self.tasks = tasks
        self.reads = asyncio.Semaphore(READS_AT_ONCE)


class Place:
    """A client's place in the view: what it was told, and whether it is being brought up to date."""

    __slots__ = ("follower", "is_catching_up", "is_over", "reader")

    def __init__(self, follower: Follower, reader: Reader) -> None:
        self.follower = follower
        self.reader = reader
        self.is_catching_up = False
        self.is_over = False


class SessionView:
    """See the module."""

    def __init__(self, org_id: OrgId, session_id: SessionId, standing: SessionStanding, desk: ViewDesk) -> None:
        self.org_id = org_id
        self.session_id = session_id
        # The last event that was handed on.
        self.seq = standing.event_seq
        self.state = state_frame(session_id, standing)
        self.read_at = 0.0
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._places: set[Place] = set()
        self._turn: OpenTurn | None = standing.turn
        self._text = TurnText()
        # The newest try that is known to be over.
        self._over: Key | None = None
        # Something was heard that the last read has not answered.
        self._has_news = False
        self._is_reading = False
        # The last delta frames, by version of the text, end of the piece and its length.
        self._deltas: dict[tuple[int, int, int], bytes] = {}
        self._asked = 0
        self._asking: asyncio.TimerHandle | None = None
        self._leave: Callable[[], Awaitable[None]] | None = None
        self._is_closed = False
        if standing.turn is not None:
            self._text.begin(_key(standing.turn), is_torn=True)

    async def open(self) -> None:
        """Listen. What was committed since the standing was read is found by the first look."""
        self._leave = await self._desk.fanout.subscribe(session_channel(self.session_id), self.hear)
        if self._is_closed:
            self.close()
            return
        self.look()
        self._ask_for_text()

    def close(self) -> None:
        """Nobody follows any more."""
        self._is_closed = True
        if self._asking is not None:
            self._asking.cancel()
        leave, self._leave = self._leave, None
        if leave is not None:
            self._desk.tasks.start(_left(leave))

    @property
    def is_followed(self) -> bool:
        return bool(self._places)

    # --- clients -----------------------------------------------------------------------------------------------------

    def join(self, reader: Reader, after_seq: int, event_seq: int) -> Place:
        """A client from now on, whose place is behind `after_seq`; the session has events up to `event_seq`.

        It is told that it has joined and where the session lives, then what it lacks, then what happens.
        """
        place = Place(Follower(after_seq, live_from=event_seq), reader)
        self._places.add(place)
        reader.write((encode(SessionAck(session_id=self.session_id)), *place.follower.state(self.state)))
        self.serve(place)
        if event_seq > self.seq:
            self.look()
        return place

    def leave(self, place: Place) -> None:
        place.is_over = True
        self._places.discard(place)

    def serve(self, place: Place) -> None:
        """Give it what it lacks, as far as it takes it."""
        if place.is_over or place.is_catching_up or not place.reader.is_writable:
            return
        if place.follower.seq < self.seq:
            place.is_catching_up = True
            self._desk.tasks.start(self._catch_up(place))
            return
        place.reader.write(place.follower.state(self.state))
        # To who has just come, and to who was slow, as one.
        self._give_text(place, as_one=True)

    # --- what is heard -----------------------------------------------------------------------------------------------

    def hear(self, data: bytes | None) -> None:
        """The channel: news, or a gap in them."""
        if data is None:
            self._text.is_torn = self._text.key is not None
            self.look()
            self._ask_for_text()
            return
        try:
            news = session_news.decode(data)
        except msgspec.DecodeError:
            log.warning("session_news_unreadable", session_id=self.session_id)
            return
        if isinstance(news, Delta):
            self._hear_delta(news)
        else:
            self.look()

    def look(self) -> None:
        """Read what Postgres has to say; what is asked for while a read is under way is one more read."""
        self._has_news = True
        if not self._is_reading and not self._is_closed:
            self._is_reading = True
            self._desk.tasks.start(self._read())

    def text_came(self, answer: TextSoFar) -> None:
        """The host's edge has told the text so far."""
        key = Key(answer.user_seq, answer.turn_epoch)
        if self._is_over(key):
            return
        self._asked = 0
        self._text.so_far(key, answer.text)
        self._show(key, 0)

    def _hear_delta(self, delta: Delta) -> None:
        key = Key(delta.user_seq, delta.turn_epoch)
        if self._is_over(key):
            return
        heard = self._text.hear(key, delta.offset, delta.content)
        if heard is Heard.GAP:
            self._ask_for_text()
        elif heard is Heard.ADDED:
            self._show(key, len(delta.content))

    def _show(self, key: Key, size: int) -> None:
        """So much text of this try came: to be given on, or, where the try is not known to run, to be looked into."""
        if key != self._running:
            self.look()
            return
        self._ask_for_text()
        for place in tuple(self._places):
            if place.reader.is_writable:
                self._give_text(place)
            else:
                place.reader.withhold(size)

    @property
    def _running(self) -> Key | None:
        return None if self._turn is None else _key(self._turn)

    def _is_over(self, key: Key) -> bool:
        return key != self._running and self._over is not None and key <= self._over

    def _ask_for_text(self) -> None:
        turn, key = self._turn, self._text.key
        if not self._text.is_torn or turn is None or key != _key(turn) or self._asking is not None or self._is_closed:
            return
        if self._asked >= TEXT_ASKED_MAX:
            # Nobody answers; the next piece that does not fit asks once more, and the answer's event has it all.
            self._asked = 0
            return
        self._asked += 1
        self._asking = self._loop.call_later(TEXT_WITHIN_S, self._ask_again)
        wanted = TextWanted(self.session_id, turn.request_id, self._desk.process_id)
        self._desk.tasks.start(self._ask(ProcessId(str(turn.edge_id)), wanted))

    def _ask_again(self) -> None:
        self._asking = None
        self._ask_for_text()

    async def _ask(self, edge: ProcessId, wanted: TextWanted) -> None:
        try:
            await self._desk.mail.send(edge, wanted)
        except BusError as error:
            log.info("text_not_asked_for", session_id=self.session_id, error=str(error))

    # --- what is read ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while self._has_news and not self._is_closed:
                self._has_news = False
                try:
                    news = await self._desk.reader.read(self.org_id, self.session_id, self.seq)
                except STORE_AWAY as error:
                    log.warning("session_unread", session_id=self.session_id, error=repr(error))
                    self._has_news = True
                    await asyncio.sleep(AGAIN_S)
                    continue
                if news is None:
                    for place in tuple(self._places):
                        place.reader.lost(self.session_id)
                    return
                self.read_at = self._loop.time()
                self._take(news.standing, [tell(row) for row in news.events])
        finally:
            self._is_reading = False

    def _take(self, standing: SessionStanding, told: Sequence[Told]) -> None:
        before, self.seq = self.seq, told[-1].seq if told else self.seq
        self.state = state_frame(self.session_id, standing)
        is_all = self.seq >= standing.event_seq
        if is_all:
            self._turn = standing.turn
            self._settle_text(told)
        else:
            # What runs now may come behind events that are yet to be read.
            self._turn = None
            self._has_news = True
        for place in tuple(self._places):
            self._hand_on(place, before, told)
        self._ask_for_text()

    def _settle_text(self, told: Sequence[Told]) -> None:
        """What was heard belongs to the try that runs, is ahead of this read, or is void."""
        text, running = self._text, self._running
        if running is not None and any(one.action == RESTARTED for one in told):
            # Its host begins to tell the text anew; where that was heard already it is asked for once more.
            text.begin(running, is_torn=True)
            return
        if text.key == running:
            return
        if text.key is not None and (running is None or text.key > running):
            if self._has_news:
                return
            # Heard before this read began, and not running: it is over.
            self._over = max(text.key, self._over or text.key)
        text.begin(running)

    def _hand_on(self, place: Place, before: int, told: Sequence[Told]) -> None:
        if place.is_over or place.is_catching_up:
            return
        if place.follower.seq != before:
            self.serve(place)
            return
        if not self._give(place, told):
            place.reader.withhold(sum(one.size for one in told if one.seq > place.follower.seq))
            return
        place.reader.write(place.follower.state(self.state))
        self._give_text(place)

    def _give(self, place: Place, told: Sequence[Told]) -> bool:
        """Those events, as far as it keeps up; whether that was all."""
        for chunk in chunks(told):
            if not place.reader.is_writable:
                return False
            place.reader.write(place.follower.events(chunk, self.state))
        return True

    def _give_text(self, place: Place, *, as_one: bool = False) -> None:
        running = self._running
        if place.is_over or place.is_catching_up or running is None or self._text.key != running:
            return
        if place.follower.seq != self.seq or not place.reader.is_writable:
            return
        pieces = place.follower.text(self._text, as_one=as_one)
        place.reader.write([self._delta_frame(running.user_seq, *piece) for piece in pieces])

    def _delta_frame(self, seq: int, end: int, content: str) -> bytes:
        """Encoded once for all who are given the same piece."""
        what = (self._text.version, end, len(content))
        frame = self._deltas.get(what)
        if frame is None:
            if len(self._deltas) >= DELTAS_KEPT:
                self._deltas.clear()
            now = iso(datetime.now(UTC))
            delta = AgentDelta(session_id=self.session_id, seq=seq, content=content, created_at=now)
            frame = self._deltas[what] = encode(delta)
        return frame

    async def _catch_up(self, place: Place) -> None:
        """Pages of its own, up to where the view is."""
        follower = place.follower
        try:
            while not place.is_over and place.reader.is_writable and follower.seq < self.seq:
                try:
                    async with self._desk.reads, self._desk.database.tenant(self.org_id) as connection:
                        rows = await list_events(
                            connection, UUID(self.session_id), follower.seq, NEWS_MAX, max_bytes=NEWS_MAX_BYTES
                        )
                except STORE_AWAY as error:
                    log.warning("session_unread", session_id=self.session_id, error=repr(error))
                    await asyncio.sleep(AGAIN_S)
                    continue
                # Never ahead of the view, which knows what else is to be told with the events behind it.
                if place.is_over or not self._give(place, [tell(row) for row in rows if row.seq <= self.seq]):
                    return
        finally:
            place.is_catching_up = False
            self.serve(place)


def _key(turn: OpenTurn) -> Key:
    return Key(turn.user_seq, turn.turn_epoch)


async def _left(leave: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(BusError):
        await leave()
