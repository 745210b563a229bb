"""An executor that does what a test says, frame by frame, over a real socket."""

import asyncio
import time
from typing import Any

import aiohttp
import msgspec

Frame = dict[str, Any]
WITHIN_S = 10.0


class ScriptedExecutor:
    """One credential, one socket at a time. `base=True`: it has never heard of v2."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str, *, base: bool = False) -> None:
        self._http = http
        self.url = url
        self.token = token
        self.base = base
        self.instance = "instance"
        self.journal = "journal"
        self.capabilities: Frame = {}
        # Everything that came, in order.
        self.heard: list[Frame] = []
        self._unread: list[Frame] = []
        self._news = asyncio.Event()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self.close_code: int | None = None
        # It answers the gateway's pings no more.
        self.is_mute = False

    async def open(self, query: str = "") -> None:
        """The socket alone; nothing is said."""
        self._unread, self.close_code = [], None
        self._socket = await self._http.ws_connect(
            f"{self.url}/ws/executor{query}",
            headers={"Authorization": f"Bearer {self.token}"},
            max_msg_size=0,
            autoping=False,
        )
        self._reading = asyncio.create_task(self._read(self._socket))

    async def connect(self, *, in_flight: list[Frame] | None = None, unacked: list[str] | None = None) -> Frame:
        """Open, say hello, and answer the welcome (a base peer gets none)."""
        await self.open()
        await self.hello(in_flight=in_flight, unacked=unacked)
        return {} if self.base else await self.next("welcome")

    async def hello(self, *, in_flight: list[Frame] | None = None, unacked: list[str] | None = None) -> None:
        hello: Frame = {"type": "hello", "agentVersion": "1", "name": "scripted", "capabilities": self.capabilities}
        if not self.base:
            hello |= {
                "protocol": {"version": 2, "features": []},
                "instanceId": self.instance,
                "journalId": self.journal,
                "inFlight": in_flight or [],
                "unacked": unacked or [],
                "openSessions": [],
            }
        await self.send(hello)

    async def send(self, frame: Frame) -> None:
        await self.send_text(msgspec.json.encode(frame).decode())

    async def send_text(self, text: str) -> None:
        assert self._socket is not None
        await self._socket.send_str(text)

    async def next(self, kind: str, within_s: float = WITHIN_S) -> Frame:
        """The next unread frame of that type; others stay unread."""
        async with asyncio.timeout(within_s):
            while True:
                for frame in self._unread:
                    if frame["type"] == kind:
                        self._unread.remove(frame)
                        return frame
                assert self.close_code is None, f"closed with {self.close_code} instead of {kind}"
                self._news.clear()
                await self._news.wait()

    def unread(self, kind: str) -> list[Frame]:
        return [frame for frame in self._unread if frame["type"] == kind]

    async def settled(self) -> None:
        """Everything that the gateway sent before it read this is here."""
        mark = time.time_ns() // 1_000_000
        await self.send({"type": "ping", "ts": mark})
        while (await self.next("pong"))["ts"] != mark:
            pass

    async def received(self, execute: Frame) -> None:
        await self.send({"type": "execute_received", **self._named(execute)})

    async def event(self, execute: Frame, seq: int, text: str = "", **others: Any) -> None:
        event = {"seq": seq, "ts": 0, "kind": "stdout", "level": "info", "message": text, **others}
        await self.send({"type": "execute_event", **self._named(execute), "event": event})

    async def result(self, execute: Frame, output: object = None, **others: Any) -> None:
        body = {"status": "succeeded", "output": {"ok": True} if output is None else output} | others
        await self.send({"type": "execute_result", **self._named(execute), **body})

    async def fail(self, execute: Frame, code: str) -> None:
        await self.send({"type": "execute_result", **self._named(execute), "status": "failed", "error": code})

    async def drop(self) -> None:
        """The line is cut."""
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

    def _named(self, execute: Frame) -> Frame:
        named = {"requestId": execute["requestId"]}
        return named if "leaseEpoch" not in execute else {**named, "leaseEpoch": execute["leaseEpoch"]}

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.PING:
                if not self.is_mute:
                    await socket.pong(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                frame = msgspec.json.decode(message.data)
                self.heard.append(frame)
                self._unread.append(frame)
                self._news.set()
        self.close_code = socket.close_code or 1006
        self._news.set()
