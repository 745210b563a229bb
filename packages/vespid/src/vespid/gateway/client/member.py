"""One client's socket: what it asks for is done in its order, and what it joined is told to it as fast as it reads.

What a client has not taken is not kept for it: while it does not read, text is merged in the session's view, and events
are read again from Postgres once it does. Who lets too much pile up, or reads nothing for too long, is closed.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Protocol

import structlog
from prometheus_client import Counter

from vespid.dispatch.audit import Doer
from vespid.dispatch.conversation import Conversation
from vespid.domain.session_message import SessionMessage
from vespid.errors import ApiError, bad_request, not_found
from vespid.gateway.client.views import Joined, SessionViews
from vespid.gateway.edge.transport import Transport
from vespid.gateway.edge.wheel import Wheel
from vespid.store.failure import STORE_AWAY
from vespid.tasks import Tasks
from vespid_protocol.bad_frames import BadFrames
from vespid_protocol.client_frames import (
    ClientHello,
    SessionAck,
    SessionCancel,
    SessionErrorFrame,
    SessionJoin,
    SessionLeave,
    SessionResetAgent,
    SessionSend,
)
from vespid_protocol.codec import FrameInvalid, Unknown, decode_client_frame, encode, recover
from vespid_protocol.codes import CloseCode, Code
from vespid_protocol.ids import OrgId, SessionId, is_uuid

log = structlog.get_logger("vespid.gateway.client.member")

_About = SessionJoin | SessionSend | SessionCancel | SessionResetAgent | SessionLeave

SESSIONS_MAX = 200
# More than this unsent: it does not keep up, and nothing is written until it has read.
UNSENT_BYTES = 64 * 1024
# Who does not keep up is closed after this long, or when so much has happened meanwhile.
BEHIND_S = 10.0
BEHIND_BYTES = 1024 * 1024

FRAMES_ODD = Counter("vespid_client_frames_odd_total", "Client frames that were not as they should be", ["what"])
CLOSED = Counter("vespid_client_sockets_closed_total", "Client sockets closed by this gateway", ["code"])


class Judge(Protocol):
    """Who knows whether a client may stay."""

    def look(self, member: "Member") -> None:
        """See whether it is time to find out."""


class Member:
    """A `session_view.Reader`."""

    def __init__(
        self,
        doer: Doer,
        org_id: OrgId,
        transport: Transport,
        views: SessionViews,
        conversation: Conversation,
        judge: "Judge",
        wheel: Wheel,
        tasks: Tasks,
        *,
        max_frame_bytes: int,
        stale_ms: int,
    ) -> None:
        self.principal = doer.principal
        self._doer = doer
        self.org_id = org_id
        self.is_over = False
        # When its membership was last found good, monotonic ms.
        self.judged_ms = 0
        self._transport = transport
        self._views = views
        self._conversation = conversation
        self._judge = judge
        self._wheel = wheel
        self._tasks = tasks
        self._max_frame_bytes = max_frame_bytes
        self._stale_ms = stale_ms
        self._loop = asyncio.get_running_loop()
        self._joined: dict[SessionId, Joined] = {}
        self._bad_frames = BadFrames()
        # Set while the client keeps up.
        self._keeps_up = asyncio.Event()
        self._keeps_up.set()
        self._behind_bytes = 0
        self._draining: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._heard_ms = self._pinged_ms = self.judged_ms = self.now_ms
        self._plan()

    @property
    def now_ms(self) -> int:
        """Monotonic ms."""
        return int(self._loop.time() * 1000)

    # --- what it is told ---------------------------------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        return self._keeps_up.is_set() and not self.is_over

    def write(self, frames: Iterable[bytes]) -> None:
        if self.is_over:
            return
        for frame in frames:
            self._transport.send(frame)
        if self._keeps_up.is_set() and self._transport.unsent > UNSENT_BYTES:
            self._keeps_up.clear()
            self._draining = self._loop.create_task(self._drain(), name="client-drain")

    def withhold(self, size: int) -> None:
        self._behind_bytes += size
        if self._behind_bytes > BEHIND_BYTES and not self._keeps_up.is_set():
            self.end(CloseCode.SLOW_READER, "too much has happened that you did not read")

    def lost(self, session_id: SessionId) -> None:
        self._leave(session_id)
        self._refuse(Code.SESSION_NOT_FOUND, "There is no such session here.", session_id)

    async def _drain(self) -> None:
        """Wait until the client has read; then it is given what it lacks."""
        try:
            async with asyncio.timeout(BEHIND_S):
                await self._transport.drained()
        except TimeoutError:
            self.end(CloseCode.SLOW_READER, "nothing was read for too long")
            return
        except ConnectionError:
            # It is gone; its reader ends by itself.
            return
        self._behind_bytes = 0
        self._keeps_up.set()
        for joined in tuple(self._joined.values()):
            joined.serve()

    # --- its life ----------------------------------------------------------------------------------------------------

    def heard(self) -> None:
        """A ping, a pong, or a frame."""
        self._heard_ms = self.now_ms

    def look(self, now_ms: int) -> None:
        """The wheel's turn: a ping every third of the stale window, and the end of who was silent for all of it."""
        if self.is_over:
            return
        if now_ms - self._heard_ms >= self._stale_ms:
            self.end(CloseCode.STALE, "nothing was heard from you")
            return
        if now_ms - max(self._pinged_ms, self._heard_ms) >= self._stale_ms // 3 and self._keeps_up.is_set():
            self._pinged_ms = now_ms
            self._tasks.start(self._ping())
        self._judge.look(self)
        self._plan()

    def end(self, code: CloseCode, reason: str) -> None:
        """Close it."""
        if self.is_over:
            return
        log.info("client_closing", user_id=self.principal.user_id, code=int(code), reason=reason)
        CLOSED.labels(str(int(code))).inc()
        self.gone()
        self._closing = self._loop.create_task(self._transport.close(int(code), reason), name="client-close")

    def gone(self) -> None:
        """The socket has ended."""
        self.is_over = True
        self._wheel.forget(self)
        for session_id in tuple(self._joined):
            self._leave(session_id)
        # Whoever waits for the client to read has nothing to wait for.
        self._keeps_up.set()

    async def closed(self) -> None:
        """Wait until nothing of it runs any more."""
        if self._draining is not None:
            self._draining.cancel()
        running = [task for task in (self._draining, self._closing) if task is not None]
        await asyncio.gather(*running, return_exceptions=True)

    def _plan(self) -> None:
        next_ping = max(self._pinged_ms, self._heard_ms) + self._stale_ms // 3
        self._wheel.plan(self, min(next_ping, self._heard_ms + self._stale_ms))

    async def _ping(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._transport.ping()

    # --- what it says ------------------------------------------------------------------------------------------------

    async def receive(self, data: bytes) -> None:
        """One message. Returns when the next may be read: in order, and not while what was said is not read."""
        self.heard()
        try:
            if len(data) > self._max_frame_bytes:
                whose = recover(data)
                raise FrameInvalid(
                    "$",
                    f"larger than {self._max_frame_bytes} bytes",
                    frame_type=whose.type,
                    session_id=whose.session_id,
                )
            frame = decode_client_frame(data)
        except FrameInvalid as problem:
            self._hear_bad(problem)
            return
        if isinstance(frame, Unknown):
            FRAMES_ODD.labels("unknown_frame").inc()
            return
        if not isinstance(frame, ClientHello):
            await self._obey(frame)
        await self._keeps_up.wait()

    def _hear_bad(self, problem: FrameInvalid) -> None:
        FRAMES_ODD.labels("bad_frame").inc()
        if self._bad_frames.one_more(self.now_ms):
            self.end(CloseCode.POLICY, "too many bad frames")
            return
        self._refuse(Code.BAD_REQUEST, str(problem)[:500], problem.session_id)

    async def _obey(self, frame: _About) -> None:
        session_id = SessionId(frame.session_id.lower())
        try:
            if not is_uuid(session_id):
                raise _not_found()
            if isinstance(frame, SessionJoin):
                await self._join(session_id, frame.after_seq)
            elif isinstance(frame, SessionSend):
                await self._send(session_id, frame)
            elif isinstance(frame, SessionCancel):
                await self._conversation.cancel(self.org_id, session_id)
            elif isinstance(frame, SessionResetAgent):
                mode = frame.mode or "keep_history"
                await self._conversation.reset(self.org_id, session_id, mode, self._doer)
            elif session_id in self._joined:
                self._leave(session_id)
            elif await self._views.standing(self.org_id, session_id) is None:
                raise _not_found()
        except ApiError as error:
            self._refuse(error.code, error.message, session_id)
        except STORE_AWAY as error:
            log.warning("client_refused", session_id=session_id, error=repr(error))
            self._refuse(Code.GATEWAY_UNAVAILABLE, "The gateway cannot do this now. Try again.", session_id)
        except Exception:
            log.exception("client_frame_failed", session_id=session_id, frame=type(frame).__name__)
            self._refuse("INTERNAL_ERROR", "Something went wrong here.", session_id)

    async def _join(self, session_id: SessionId, after_seq: int | None) -> None:
        if session_id not in self._joined and len(self._joined) >= SESSIONS_MAX:
            raise bad_request(f"One socket joins at most {SESSIONS_MAX} sessions.")
        # A second join begins at another place.
        self._leave(session_id)
        joined = await self._views.join(self.org_id, session_id, self, after_seq)
        if joined is None:
            raise _not_found()
        if self.is_over:
            joined.leave()
        else:
            self._joined[session_id] = joined

    async def _send(self, session_id: SessionId, frame: SessionSend) -> None:
        joined = self._joined.get(session_id)
        seq_before = 0 if joined is None else joined.seq
        message = SessionMessage(frame.message, frame.attachments, frame.idempotency_key)
        event = await self._conversation.send(self.org_id, session_id, self.principal.user_id, message)
        joined = self._joined.get(session_id)
        if joined is None or joined.ack_own(event.seq, seq_before):
            self.write((encode(SessionAck(session_id=session_id, user_event_seq=event.seq)),))

    def _leave(self, session_id: SessionId) -> None:
        joined = self._joined.pop(session_id, None)
        if joined is not None:
            joined.leave()

    def _refuse(self, code: str, message: str, session_id: str | None) -> None:
        self.write((encode(SessionErrorFrame(code=code, message=message, session_id=session_id)),))


def _not_found() -> ApiError:
    return not_found("SESSION_NOT_FOUND", "There is no such session here.")
