"""The sessions that clients of this process have joined: one view each, for as long as somebody follows it."""

import asyncio
import contextlib
from uuid import UUID

import structlog

from vespid.bus.messages import TextSoFar
from vespid.gateway.client.session_view import Place, Reader, SessionView, ViewDesk
from vespid.store.sessions import SessionStanding, read_standing
from vespid_protocol.ids import OrgId, SessionId

log = structlog.get_logger("vespid.gateway.client.views")

# What a client is given that does not say up to where it has the session.
LAST_EVENTS = 200
# How soon each session is looked at without a hint: while publications are not heard, and while they are.
LOOK_S = 0.5
LOOK_ANYWAY_S = 10.0


class SessionViews:
    """A Service: the slow look that finds what lost hints meant."""

    def __init__(self, desk: ViewDesk) -> None:
        self._desk = desk
        self._views: dict[SessionId, SessionView] = {}
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._views)

    async def start(self) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="session-views")

    async def stop(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def standing(self, org_id: OrgId, session_id: SessionId) -> SessionStanding | None:
        """How the session stands; None: the organization has none of that id."""
        async with self._desk.database.tenant(org_id) as connection:
            return await read_standing(connection, UUID(org_id), UUID(session_id))

    async def join(
        self, org_id: OrgId, session_id: SessionId, reader: Reader, after_seq: int | None
    ) -> "Joined | None":
        """Have `reader` told of the session; None: the organization has none of that id."""
        standing = await self.standing(org_id, session_id)
        if standing is None:
            return None
        # From here to the join nothing waits, so a view cannot be given up in between.
        view = self._views.get(session_id)
        if view is None:
            view = self._views[session_id] = SessionView(org_id, session_id, standing, self._desk)
            self._desk.tasks.start(view.open())
        last = standing.event_seq
        begin = max(0, last - LAST_EVENTS) if after_seq is None else min(after_seq, last)
        return Joined(self, view, view.join(reader, begin, last))

    def left(self, view: SessionView) -> None:
        """Somebody has left it."""
        if not view.is_followed and self._views.get(view.session_id) is view:
            del self._views[view.session_id]
            view.close()

    def text_came(self, answer: TextSoFar) -> None:
        """An edge tells the text of a running turn."""
        view = self._views.get(answer.session_id)
        if view is not None:
            view.text_came(answer)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            is_deaf = not self._desk.fanout.connected
            for view in tuple(self._views.values()):
                if is_deaf or loop.time() - view.read_at >= LOOK_ANYWAY_S:
                    view.look()


class Joined:
    """A client's having joined a session."""

    __slots__ = ("_place", "_view", "_views")

    def __init__(self, views: SessionViews, view: SessionView, place: Place) -> None:
        self._views = views
        self._view = view
        self._place = place

    @property
    def seq(self) -> int:
        """The last event that the client was given."""
        return self._place.follower.seq

    def ack_own(self, seq: int, seq_before: int) -> bool:
        """Whether the client's own message is still to be acknowledged (`Follower.ack_own`)."""
        return self._place.follower.ack_own(seq, seq_before)

    def serve(self) -> None:
        """The client reads again."""
        self._view.serve(self._place)

    def leave(self) -> None:
        self._view.leave(self._place)
        self._views.left(self._view)
