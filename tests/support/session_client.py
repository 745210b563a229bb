"""A client of the client socket that does what a test says, and remembers what it was told."""

import asyncio
import socket
from typing import Any

import aiohttp
import msgspec

Frame = dict[str, Any]
WITHIN_S = 15.0


class SessionClient:
    """One credential, one socket."""

    def __init__(self, http: aiohttp.ClientSession, url: str, **headers: str) -> None:
        self._http = http
        self.url = url
        self.headers = headers
        # Everything that came, in order.
        self.heard: list[Frame] = []
        self.close_code: int | None = None
        # Pings of ours that were answered.
        self.pongs: list[bytes] = []
        # Of the upgrade's answer.
        self.answer_headers: dict[str, str] = {}
        # It answers the gateway's pings no more.
        self.is_mute = False
        self._news = asyncio.Event()
        self._reads = asyncio.Event()
        self._reads.set()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, query: str = "") -> "SessionClient":
        self._socket = await self._http.ws_connect(
            f"{self.url}/ws/client{query}", headers=self.headers, max_msg_size=0, autoping=False
        )
        self.answer_headers = {name.lower(): value for name, value in self._socket._response.headers.items()}
        self._reading = asyncio.create_task(self._read(self._socket))
        return self

    async def send(self, kind: str, session_id: str | None = None, **fields: Any) -> None:
        about = {} if session_id is None else {"sessionId": session_id}
        await self.send_text(msgspec.json.encode({"type": kind, **about, **fields}).decode())

    async def send_text(self, text: str) -> None:
        assert self._socket is not None
        await self._socket.send_str(text)

    async def send_bytes(self, data: bytes) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(data)

    async def ping(self, data: bytes) -> None:
        """Answered when this returns."""
        assert self._socket is not None
        await self._socket.ping(data)
        await self.until(lambda: data in self.pongs, "the ping is answered")

    async def join(self, session_id: str, after_seq: int | None = None) -> None:
        """Joined, and told so."""
        acks = self.count("session_ack", session_id)
        await self.send("session_join", session_id, **({} if after_seq is None else {"afterSeq": after_seq}))
        await self.until(lambda: self.count("session_ack", session_id) > acks, "the join is acknowledged")

    def of(self, kind: str, session_id: str | None = None) -> list[Frame]:
        """The frames of that type so far."""
        return [
            frame
            for frame in self.heard
            if frame["type"] == kind and (session_id is None or frame.get("sessionId") == session_id)
        ]

    def count(self, kind: str, session_id: str | None = None) -> int:
        return len(self.of(kind, session_id))

    def seqs(self, session_id: str | None = None) -> list[int]:
        """Of the events so far."""
        return [frame["seq"] for frame in self.of("session_event_v2", session_id)]

    def story(self, session_id: str | None = None) -> list[str]:
        """What was told, in a word per frame."""
        return [_word(frame) for frame in self.heard if session_id is None or frame.get("sessionId") == session_id]

    async def until(self, holds: Any, what: str, within_s: float = WITHIN_S) -> Any:
        """Wait for something to hold of what was heard."""
        try:
            async with asyncio.timeout(within_s):
                while not (value := holds()):
                    assert self.close_code is None, f"closed with {self.close_code} instead of: {what}"
                    self._news.clear()
                    await self._news.wait()
                return value
        except TimeoutError:
            raise AssertionError(f"{what}: not within {within_s} s; heard {self.story()[-20:]}") from None

    async def next(self, kind: str, nth: int = 1, session_id: str | None = None) -> Frame:
        """The nth frame of that type since the socket opened."""
        frames = await self.until(lambda: self.of(kind, session_id)[nth - 1 : nth], f"frame {nth} of type {kind}")
        return dict(frames[0])

    async def event(self, seq: int, session_id: str | None = None) -> Frame:
        """The event of that seq."""
        found = await self.until(
            lambda: [f for f in self.of("session_event_v2", session_id) if f["seq"] == seq], f"event {seq}"
        )
        return dict(found[0])

    async def settled(self) -> None:
        """Everything that the gateway did before it read this was told: a frame that it refuses comes back."""
        errors = self.count("session_error")
        await self.send("session_leave", "no-session-of-anybody")
        await self.until(lambda: self.count("session_error") > errors, "the mark came back")

    def stop_reading(self) -> None:
        """Let the gateway's bytes lie."""
        self._reads.clear()

    def read_on(self) -> None:
        self._reads.set()

    async def drop(self) -> None:
        """The line is cut."""
        self._reads.set()
        if self._socket is not None and not self._socket.closed:
            await self._socket.close()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def closed(self, within_s: float = WITHIN_S) -> int:
        """Wait for the gateway's close, and answer its code."""
        assert self._reading is not None
        await asyncio.wait_for(asyncio.shield(self._reading), within_s)
        assert self.close_code is not None
        return self.close_code

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.PING:
                if not self.is_mute:
                    await socket.pong(message.data)
            elif message.type is aiohttp.WSMsgType.PONG:
                self.pongs.append(bytes(message.data))
                self._news.set()
            elif message.type is aiohttp.WSMsgType.TEXT:
                self.heard.append(msgspec.json.decode(message.data))
                self._news.set()
            await self._reads.wait()
        self.close_code = socket.close_code or 1006
        self._news.set()


def _word(frame: Frame) -> str:
    kind: str = frame["type"]
    if kind == "session_event_v2":
        action = (frame["payload"] or {}).get("action") if isinstance(frame["payload"], dict) else None
        return f"{frame['seq']}:{action or frame['eventType']}"
    if kind == "session_ack":
        return f"ack:{frame['userEventSeq']}" if "userEventSeq" in frame else "joined"
    if kind == "agent_delta":
        return f"+{frame['content']}"
    return kind.removeprefix("session_")


def narrow_http() -> aiohttp.ClientSession:
    """For clients that do not read: the system takes next to nothing on their behalf."""

    def make(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(address[0], address[1], address[2])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return made

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=make), cookie_jar=aiohttp.DummyCookieJar()
    )
