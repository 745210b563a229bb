"""Brings an inline secret to the edge that will send it: in memory where that is here, else by direct internal HTTP.

Never through Redis, never into a row. A value that does not arrive makes its request fail with SECRET_REQUIRED.
"""

import aiohttp
import structlog

from vespid.dispatch.house import House
from vespid.errors import ApiError
from vespid.gateway.edge.handover import Handover
from vespid.security.envelope import SecretValue
from vespid.store.connections import address_of
from vespid_protocol.ids import ProcessId, RequestId

log = structlog.get_logger("vespid.gateway.brain.secret_courier")

TIMEOUT_S = 5.0
ROUTE = "/internal/v1/secret-handover"


class SecretCourier:
    """A Service: it owns the HTTP client."""

    def __init__(self, house: House, handover: Handover, token: str) -> None:
        self._house = house
        self._handover = handover
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def stop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def bring(self, edge_id: ProcessId, request_id: RequestId, value: SecretValue) -> None:
        """Raises 503 GATEWAY_UNAVAILABLE where the edge cannot be reached."""
        if edge_id == self._house.process_id:
            self._handover.keep(request_id, value)
            return
        address = await address_of(self._house.db, edge_id)
        unreachable = ApiError(503, "GATEWAY_UNAVAILABLE", "The executor's gateway cannot be given the secret.")
        if address is None or self._session is None:
            raise unreachable
        try:
            async with self._session.post(
                address.rstrip("/") + ROUTE,
                headers={"X-Gateway-Token": self._token},
                json={"requestId": request_id, "secret": value.reveal()},
            ) as response:
                if response.status != 200:
                    raise unreachable
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable from error

    def forget(self, request_id: RequestId) -> None:
        self._handover.forget(request_id)
