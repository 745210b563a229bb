"""What an installation is and can do."""

from typing import Any

from vespid_client.models.model import Model


class Provider(Model, frozen=True, kw_only=True):
    """Who made it, in which version."""

    name: str
    version: str


class Capabilities(Model, frozen=True, kw_only=True):
    """What the installation can do."""

    edition: str
    capabilities: list[str]
    provider: Provider
    # Where people's pages are; the `Origin` that goes with a session cookie.
    web_base_url: str | None = None
    # The client socket.
    client_ws_url: str | None = None


class ActionInfo(Model, frozen=True, kw_only=True):
    """An action, and the JSON Schema of what it takes."""

    id: str
    input_schema: dict[str, Any]


class ConnectorInfo(Model, frozen=True, kw_only=True):
    """A connector that workflows can use."""

    id: str
    display_name: str
    requires_secret: bool
    actions: list[ActionInfo]


class Engine(Model, frozen=True, kw_only=True):
    """An engine that a node or a session can name."""

    id: str
    display_name: str
    cli_command: str | None = None
    default_model: str | None
