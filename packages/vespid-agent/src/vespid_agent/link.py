"""The link: one socket after another, for as long as the agent lives.

What is said and when is decided by `AgentPeer`; here are the sockets, the waiting between them, and the clock that
looks at the lease before anything else is done.

The gateway may ask for a move (`reconnect`): then the next socket is opened while the present one still works.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import NamedTuple

import aiohttp

from vespid_agent.clock import MonotonicMs, epoch_ms
from vespid_agent.logs import Logger
from vespid_agent.outbox import Outbox
from vespid_agent.socket import Closed, HandshakeRefused, Heard, Socket, SocketFailed
from vespid_protocol import effects as fx
from vespid_protocol.agent_peer import AgentPeer
from vespid_protocol.codec import HARD_LIMIT_FACTOR, MAX_FRAME_BYTES
from vespid_protocol.codes import CloseCode
from vespid_protocol.requests import Effects

# The clock is looked at at least this often.
TICK_S = 0.5
TICK_MIN_S = 0.01
# Between two attempts to follow a `reconnect`.
MOVE_AGAIN_S = 2.0


class Refused(Exception):
    """The gateway will never take this agent as it is; the message says why and what to do."""


_ADVICE = {
    "4401": "Its token is no longer valid. Put the new one into the config, or pair this machine again.",
    "EXECUTOR_TOKEN_INVALID": "Its token is not known. Put the new one into the config, or pair this machine again.",
    "4403": "It was revoked. Pair this machine again if that was a mistake.",
    "EXECUTOR_REVOKED": "It was revoked. Pair this machine again if that was a mistake.",
    "4409": "Stop the other process, or pair this machine for an identity of its own.",
    "4426": "This version of the agent is not spoken there. Update it.",
    "PROTOCOL_UNSUPPORTED": "This version of the agent is not spoken there. Update it.",
}


class Standing(NamedTuple):
    """How the link stands, for people."""

    is_up: bool
    # Epoch ms: since when it is up, or down.
    since_ms: int
    # Why it is down; None while it is up, and before the first attempt has ended.
    trouble: str | None


# A token was rotated: the config may hold the new one by now.
_TOKEN_CODES = ("4401", "EXECUTOR_TOKEN_INVALID")


class Link:
    """`run` and `tick` until refused or cancelled. `carry` carries out effects; those about sockets come back here."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        token: str,
        peer: AgentPeer,
        carry: Callable[[Effects], None],
        monotonic_ms: MonotonicMs,
        log: Logger,
        reread_token: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`reread_token` answers the token that stands in the config now, if one does."""
        # Of the present socket; None while there is none.
        self.outbox: Outbox | None = None
        # Set while a socket is up.
        self.up = asyncio.Event()
        self.standing = Standing(False, epoch_ms(), None)
        self._session = session
        self._url = url
        self._token = token
        self._reread_token = reread_token
        self._peer = peer
        self._carry = carry
        self._monotonic_ms = monotonic_ms
        self._log = log
        self._delay_ms = 0
        self._exit: fx.Exit | None = None
        self._close: fx.Close | None = None
        self._probe_wanted = False
        # Set when a probe or a close is wanted.
        self._wanted = asyncio.Event()
        self._moves = asyncio.Event()
        self._retimed = asyncio.Event()
        self._move_after_ms = 0
        self._successor: Socket | None = None

    # --- effects, called by the agent ------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """A frame that must go out on this socket."""
        if self.outbox is not None:
            self.outbox.put(frame)

    def send_first(self, frame: bytes) -> None:
        """A sign of life."""
        if self.outbox is not None:
            self.outbox.put_first(frame)

    def probe(self) -> None:
        """Send a WebSocket ping."""
        self._probe_wanted = True
        self._wanted.set()

    def close(self, effect: fx.Close) -> None:
        """End this socket."""
        self._close = effect
        self._wanted.set()

    def reconnect(self, after_ms: int) -> None:
        self._delay_ms = after_ms

    def exit(self, effect: fx.Exit) -> None:
        self._exit = effect

    def move(self, after_ms: int) -> None:
        """Open another socket after so long, or a little later, so that not all agents come at once."""
        self._move_after_ms = after_ms + int(random.random() * (250 + min(after_ms // 5, 5_000)))  # noqa: S311  (jitter)
        self._moves.set()

    # --- time --------------------------------------------------------------------------------------------------------

    def look_at_clock(self) -> int:
        """Now. If trust in our leases has ended, what follows from that is done first."""
        now = self._monotonic_ms()
        until = self._peer.trusted_until
        if until is not None and now >= until:
            self._carry(self._peer.tick(now))
        return now

    async def tick(self) -> None:
        """The clock's own task: runs with and without a socket, until cancelled."""
        while True:
            now = self._monotonic_ms()
            self._carry(self._peer.tick(now))
            due_s = (self._peer.next_due - now) / 1000
            self._retimed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(due_s, TICK_MIN_S), TICK_S)):
                    await self._retimed.wait()

    def retime(self) -> None:
        """The gateway's figures have changed what is due next."""
        self._retimed.set()

    # --- sockets -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; then the socket is closed properly. Raises Refused, or NetworkMisconfigured."""
        socket: Socket | None = None
        while True:
            socket = await self._serve(socket or await self._connect())

    async def _connect(self) -> Socket:
        """A new socket, however long it takes. Raises Refused."""
        while True:
            await asyncio.sleep(self._delay_ms / 1000)
            try:
                return await self._try_connect()
            except HandshakeRefused as refused:
                after_ms = None if refused.retry_after_s is None else int(refused.retry_after_s * 1000)
                self._carry(self._peer.refused(refused.code, str(refused), after_ms))
                self._is_down(f"refused: {refused}")
                self._log.warning("refused", status=refused.status, code=refused.code, retry_in_ms=self._delay_ms)
            except SocketFailed as failed:
                self._carry(self._peer.refused(None, str(failed)))
                self._is_down(str(failed))
                self._log.warning("unreachable", error=str(failed), retry_in_ms=self._delay_ms)
            self._raise_if_final()

    async def _try_connect(self) -> Socket:
        limit = MAX_FRAME_BYTES * HARD_LIMIT_FACTOR
        return await Socket.connect(self._session, self._url, self._token, max_frame_bytes=limit)

    async def _serve(self, socket: Socket) -> Socket | None:
        """Until the socket ends (None), or until another has been opened in its place (that one)."""
        outbox = self.outbox = Outbox()
        self._close = None
        self._wanted.clear()
        self._moves.clear()
        self._log.info("connected", url=self._url)
        self._carry(self._peer.opened(self._monotonic_ms(), epoch_ms()))
        self.up.set()
        self.standing = Standing(True, epoch_ms(), None)
        reader = asyncio.create_task(self._read(socket), name="link reader")
        tasks: list[asyncio.Task[Closed | None]] = [
            reader,
            asyncio.create_task(self._write(socket, outbox), name="link writer"),
            asyncio.create_task(self._control(socket), name="link control"),
            asyncio.create_task(self._move(), name="link mover"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.up.clear()
            self.outbox = None
            ends = await _finish(tasks)
            successor, self._successor = self._successor, None
            code = CloseCode.GOING_AWAY if self._close is None else self._close.code
            reason = "the agent leaves" if self._close is None else self._close.reason
            await socket.close(CloseCode.NORMAL if successor is not None else code, reason)
        if successor is not None:
            self._log.info("moved")
            return successor
        told = next((end for end in ends if end is not None), Closed(code, reason))
        self._carry(self._peer.closed(told.code, told.reason, self.look_at_clock()))
        self._is_down(f"closed: {told.code} {told.reason}".rstrip())
        self._log.warning("disconnected", code=told.code, reason=told.reason, retry_in_ms=self._delay_ms)
        self._raise_if_final()
        return None

    def _is_down(self, trouble: str) -> None:
        since_ms = epoch_ms() if self.standing.is_up else self.standing.since_ms
        self.standing = Standing(False, since_ms, trouble)

    async def _read(self, socket: Socket) -> Closed:
        peer, carry = self._peer, self._carry
        while True:
            got = await socket.receive()
            now = self.look_at_clock()
            if isinstance(got, bytes):
                carry(peer.receive_data(got, now))
            elif isinstance(got, Heard):
                peer.heard(now)
            else:
                return got

    async def _write(self, socket: Socket, outbox: Outbox) -> Closed:
        while True:
            frames = await outbox.take()
            self.look_at_clock()
            try:
                await socket.send(frames)
            except SocketFailed as failed:
                return Closed(1006, str(failed))

    async def _control(self, socket: Socket) -> Closed | None:
        """WebSocket pings, and the end when the peer wants one."""
        while self._close is None:
            await self._wanted.wait()
            self._wanted.clear()
            if self._probe_wanted:
                self._probe_wanted = False
                try:
                    await socket.ping()
                except SocketFailed as failed:
                    return Closed(1006, str(failed))
        return Closed(self._close.code, self._close.reason)

    async def _move(self) -> None:
        """When the gateway asks for it: another socket, while this one goes on."""
        await self._moves.wait()
        await asyncio.sleep(self._move_after_ms / 1000)
        while self._successor is None:
            try:
                self._successor = await self._try_connect()
            except (HandshakeRefused, SocketFailed) as error:
                self._log.warning("not_moved", error=str(error))
                await asyncio.sleep(MOVE_AGAIN_S * (1 + random.random()))  # noqa: S311  (jitter)

    def _raise_if_final(self) -> None:
        if self._exit is not None:
            code, reason = self._exit.code, self._exit.reason
            if code in _TOKEN_CODES and (token := self._reread_token()) not in (None, self._token):
                self._token, self._exit = token, None
                self._log.info("token_renewed")
                return
            advice = _ADVICE.get(code, "")
            raise Refused(f"the gateway refused this agent for good ({code}: {reason}). {advice}".rstrip())


async def _finish(tasks: list[asyncio.Task[Closed | None]]) -> list[Closed | None]:
    """Cancel those that still run; what the others ended with. Raises what one of them raised."""
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return [end for end in ends if isinstance(end, Closed)]
