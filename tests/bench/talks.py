"""Both ends of sessions: hosts whose turns the figure plays, clients that note what they see and when."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import msgspec
from tests.bench.executor import Executor, Heard

_encode = msgspec.json.Encoder().encode


class Host(Executor):
    """`turn_came` is told of each turn."""

    def __init__(self, url: str, token: str, turn_came: Callable[["Host", Heard], None]) -> None:
        super().__init__(url, token)
        self._turn_came = turn_came

    async def hear(self, frame: Heard) -> None:
        if frame.type == "session_turn":
            self._turn_came(self, frame)
        elif frame.type == "session_open" and not frame.more:
            await self._say("session_opened", frame)
        else:
            await super().hear(frame)

    async def delta(self, turn: Heard, content: str) -> None:
        await self._say("turn_delta", turn, content=content)

    async def final(self, turn: Heard, content: str) -> None:
        await self._say("turn_final", turn, content=content)

    async def _say(self, kind: str, turn: Heard, **fields: str) -> None:
        await self.send({"type": kind, "requestId": turn.request_id, "sessionId": turn.session_id, **fields})


class _Told(msgspec.Struct, rename="camel"):
    type: str
    session_id: str = ""
    user_event_seq: int = 0
    code: str = ""


_decode = msgspec.json.Decoder(_Told).decode


class Talk:
    """One session. What is awaited of it is a future of the moment at which it came, by what it is."""

    def __init__(self, session_id: str, client: "Client") -> None:
        self.session_id = session_id
        self.client = client
        # Who has its turn, and which.
        self.host: Host | None = None
        self.turn: Heard | None = None
        self._awaited: dict[str, asyncio.Future[float]] = {}

    def awaited(self, what: str) -> asyncio.Future[float]:
        """When this comes the next time."""
        future = self._awaited[what] = asyncio.get_running_loop().create_future()
        return future

    def came(self, what: str) -> None:
        future = self._awaited.pop(what, None)
        if future is not None and not future.done():
            future.set_result(time.perf_counter())

    def turn_came(self, host: Host, turn: Heard) -> None:
        self.host, self.turn = host, turn
        self.came("turn")

    async def join(self) -> None:
        joined = self.awaited("joined")
        await self.client.say("session_join", self.session_id)
        await joined

    async def send(self) -> None:
        await self.client.say("session_send", self.session_id, message="How far is it?")

    async def begin(self) -> None:
        """Have a turn that its host has begun to answer, and that its client sees the answer of."""
        turn, delta = self.awaited("turn"), self.awaited("agent_delta")
        await self.send()
        await turn
        await self.delta("A")
        await delta

    async def delta(self, content: str) -> None:
        assert self.host is not None
        assert self.turn is not None
        await self.host.delta(self.turn, content)

    async def final(self) -> None:
        assert self.host is not None
        assert self.turn is not None
        await self.host.final(self.turn, "Not far.")


class Client:
    """A client socket and the talks that it has joined."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.talks: dict[str, Talk] = {}
        self._socket = socket
        self._reading = asyncio.create_task(self._read())

    def talk(self, session_id: str) -> Talk:
        talk = self.talks[session_id] = Talk(session_id, self)
        return talk

    async def say(self, kind: str, session_id: str, **fields: object) -> None:
        await self._socket.send_str(_encode({"type": kind, "sessionId": session_id, **fields}).decode())

    async def close(self) -> None:
        await self._socket.close()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        async for message in self._socket:
            frame = _decode(message.data)
            talk = self.talks.get(frame.session_id)
            if frame.type == "session_error":
                raise RuntimeError(f"a client was refused: {frame.code}")
            if talk is not None:
                talk.came("joined" if frame.type == "session_ack" and not frame.user_event_seq else frame.type)
