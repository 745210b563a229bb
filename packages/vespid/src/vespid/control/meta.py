"""What this installation is and can do, for clients that have nobody signed in yet."""

import functools
from importlib.metadata import version
from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency

from vespid.control.deps import Deps
from vespid.domain import engine
from vespid_runtime.connectors.registry import ConnectorInfo, registry

CAPABILITIES = (
    "workflows.v2",
    "workflows.v3",
    "sessions.v2",
    "triggers.manual",
    "triggers.webhook",
    "triggers.cron",
    "executors.byon",
    "executors.managed",
    "secrets",
    "runs.stream",
    "api-keys",
    "audit-log",
)


class Provider(msgspec.Struct, frozen=True):
    """Who made this, in which version."""

    name: str
    version: str


class Capabilities(msgspec.Struct, frozen=True, rename="camel"):
    """What this installation can do, and where people and their programs find it."""

    edition: Literal["community"]
    capabilities: list[str]
    provider: Provider
    # Its origin is one that goes with a session cookie.
    web_base_url: str
    # The client socket.
    client_ws_url: str


class Connectors(msgspec.Struct, frozen=True):
    """The connectors that workflows can use here."""

    connectors: list[ConnectorInfo]


class Engine(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An engine that answers prompts; `cliCommand` must be installed where it runs."""

    id: str
    display_name: str
    cli_command: str | msgspec.UnsetType = msgspec.UNSET
    # None: it takes the organization's default, or has no model at all.
    default_model: str | None


class Engines(msgspec.Struct, frozen=True):
    """The engines that a node or a session can name."""

    engines: list[Engine]


ENGINES = Engines(
    [
        Engine(id=engine.LOOP, display_name="Vespid loop", default_model=None),
        Engine(
            id=engine.CLAUDE,
            display_name="Claude Agent SDK",
            cli_command="claude",
            default_model="claude-sonnet-4-5",
        ),
        Engine(id=engine.CODEX, display_name="Codex SDK", cli_command="codex", default_model="gpt-5-codex"),
        Engine(id=engine.ECHO, display_name="Echo", default_model=None),
    ]
)


@get("/v1/meta/capabilities", operation_id="readCapabilities", tags=["meta"])
async def read_capabilities(deps: NamedDependency[Deps]) -> Capabilities:
    """What this installation can do, and where it is."""
    return Capabilities(
        edition="community",
        capabilities=list(CAPABILITIES),
        provider=Provider("vespid", version("vespid")),
        web_base_url=deps.settings.web_base_url[0].rstrip("/"),
        client_ws_url=deps.settings.client_ws_url,
    )


@get("/v1/meta/connectors", operation_id="listConnectors", tags=["meta"])
async def list_connectors() -> Connectors:
    """The connectors, their actions, and what each action takes."""
    return Connectors(_described())


@get("/v1/agent/engines", operation_id="listEngines", tags=["meta"])
async def list_engines() -> Engines:
    """The engines that a node or a session can name."""
    return ENGINES


@functools.cache
def _described() -> list[ConnectorInfo]:
    # Connectors are found once, when first asked for: their drivers are slow to import.
    return registry().describe()


routes = [read_capabilities, list_connectors, list_engines]
