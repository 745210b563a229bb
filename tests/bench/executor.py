"""The least that an executor can be: it answers every `execute` at once, so that the server is what is measured."""

import asyncio

import aiohttp
import msgspec

_encode = msgspec.json.Encoder().encode


class _Frame(msgspec.Struct, rename="camel"):
    type: str
    request_id: str = ""
    lease_epoch: int = 0


_decode = msgspec.json.Decoder(_Frame).decode


class Executor:
    """Speaks v2, journals nothing."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self.welcomed = asyncio.Event()

    async def connect(self, http: aiohttp.ClientSession, max_in_flight: int = 200) -> None:
        """Connect and wait for `welcome`."""
        headers = {"Authorization": f"Bearer {self._token}"}
        self._socket = await http.ws_connect(self._url, headers=headers, max_msg_size=0)
        hello = {
            "type": "hello",
            "agentVersion": "bench",
            "name": "bench",
            "protocol": {"version": 2, "features": []},
            "instanceId": self._token[-12:],
            "journalId": self._token[-12:],
            "inFlight": [],
            "unacked": [],
            "openSessions": [],
            "capabilities": {"maxInFlight": max_in_flight},
        }
        await self._socket.send_str(_encode(hello).decode())
        self._reading = asyncio.create_task(self._read())
        await self.welcomed.wait()

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        assert self._socket is not None
        async for message in self._socket:
            frame = _decode(message.data)
            if frame.type == "execute":
                result = {
                    "type": "execute_result",
                    "requestId": frame.request_id,
                    "leaseEpoch": frame.lease_epoch,
                    "status": "succeeded",
                    "output": {"accepted": True, "nodeId": "n"},
                }
                await self._socket.send_str(_encode(result).decode())
            elif frame.type == "welcome":
                self.welcomed.set()
