"""What an installation is and can do; nobody has to be signed in."""

from vespid_client.api import Api
from vespid_client.models.meta import Capabilities, ConnectorInfo, Engine
from vespid_client.models.model import Model
from vespid_client.route import Route


class Connectors(Model, frozen=True, kw_only=True):
    """All connectors."""

    connectors: list[ConnectorInfo]


class Engines(Model, frozen=True, kw_only=True):
    """All engines."""

    engines: list[Engine]


CAPABILITIES = Route("GET", "/v1/meta/capabilities", Capabilities, is_open=True)
CONNECTORS = Route("GET", "/v1/meta/connectors", Connectors, is_open=True)
ENGINES = Route("GET", "/v1/agent/engines", Engines, is_open=True)


class Meta:
    """`client.meta`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def capabilities(self) -> Capabilities:
        """What it can do, in which version, and where its pages are."""
        return await self._api.call(CAPABILITIES)

    async def connectors(self) -> list[ConnectorInfo]:
        """The connectors that workflows can use, and what their actions take."""
        return (await self._api.call(CONNECTORS)).connectors

    async def engines(self) -> list[Engine]:
        """The engines that a node or a session can name."""
        return (await self._api.call(ENGINES)).engines
