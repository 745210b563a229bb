"""The gateways, asked over their internal HTTP about a host whose socket one of them has."""

import asyncio

import aiohttp
import msgspec
import structlog

from vespid.errors import ApiError
from vespid.store.connections import gateway_addresses
from vespid.store.pool import Database

log = structlog.get_logger("vespid.control.gateways")

# Longer than a gateway waits for a host.
TIMEOUT_S = 20.0
CONNECT_S = 2.0


class _Refusal(msgspec.Struct, frozen=True):
    """The error envelope."""

    code: str
    message: str


class Gateways:
    """A Service: it owns the HTTP client."""

    def __init__(self, database: Database, token: str) -> None:
        self._database = database
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, connect=CONNECT_S)
            self._session = aiohttp.ClientSession(timeout=timeout)

    async def stop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, route: str, body: msgspec.Struct) -> bytes | None:
        """The answer of the one that it concerns; None where it concerns none of them.

        Raises ApiError as that one refused, and 503 GATEWAY_NOT_CONFIGURED without a token for them.
        """
        if not self._token or self._session is None:
            raise ApiError(503, "GATEWAY_NOT_CONFIGURED", "This server was given no token for the gateways.")
        addresses = await gateway_addresses(self._database)
        data = msgspec.json.encode(body)
        found = await asyncio.gather(
            *(self._ask_one(self._session, address.rstrip("/") + route, data) for address in addresses),
            return_exceptions=True,
        )
        answers = [answer for answer in found if isinstance(answer, bytes)]
        if answers:
            return answers[0]
        for failure in found:
            if isinstance(failure, BaseException):
                raise failure
        return None

    async def _ask_one(self, session: aiohttp.ClientSession, url: str, data: bytes) -> bytes | None:
        headers = {"X-Gateway-Token": self._token, "Content-Type": "application/json"}
        try:
            async with session.post(url, data=data, headers=headers) as response:
                answer = await response.read()
                if response.status == 200:
                    return answer
                if response.status == 404:
                    return None
        except aiohttp.ClientConnectorError as error:
            # It died, and its lease has not passed: whoever was connected to it is not any more.
            log.info("gateway_not_there", url=url, error=str(error))
            return None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable() from error
        try:
            refusal = msgspec.json.decode(answer, type=_Refusal)
        except msgspec.MsgspecError as error:
            raise _unavailable() from error
        log.info("gateway_refused", url=url, status=response.status, code=refusal.code)
        if response.status != 503:
            raise _unavailable()
        raise ApiError(503, refusal.code, refusal.message)


def _unavailable() -> ApiError:
    return ApiError(503, "GATEWAY_UNAVAILABLE", "The gateway cannot answer.")
