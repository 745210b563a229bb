"""The connectors this process can run: the built-in ones, then those that installed packages offer.

A package's connector that cannot be loaded neither takes the others down nor is skipped in silence: it is listed in
`broken`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

import msgspec

from vespid_runtime.connectors.contract import (
    ACTION_ID,
    CONNECTOR_ID,
    ActionContext,
    Connector,
    action_not_supported,
)

ENTRY_POINT_GROUP = "vespid.connectors"


class ActionInfo(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    input_schema: dict[str, object]


class ConnectorInfo(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of /v1/meta/connectors."""

    id: str
    display_name: str
    requires_secret: bool
    actions: list[ActionInfo]


@dataclass(frozen=True, slots=True)
class BrokenConnector:
    """An entry point that gave no usable connector, and why."""

    name: str
    # The distribution that published it, as far as it is known.
    package: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Registry:
    connectors: Mapping[str, Connector]
    broken: tuple[BrokenConnector, ...]

    def ids(self) -> list[str]:
        return list(self.connectors)

    def describe(self) -> list[ConnectorInfo]:
        return [
            ConnectorInfo(
                id=connector.id,
                display_name=connector.display_name,
                requires_secret=connector.requires_secret,
                actions=[ActionInfo(action.id, action.input_schema) for action in connector.actions],
            )
            for connector in self.connectors.values()
        ]

    async def run(
        self, connector_id: str, action_id: str, input: object, secret: str | None, context: ActionContext
    ) -> object:
        """Run one action by its names. Raises only `ConnectorError`: ACTION_NOT_SUPPORTED:<c>:<a> for unknown ones."""
        connector = self.connectors.get(connector_id)
        if connector is None:
            raise action_not_supported(connector_id, action_id)
        return await connector.run(action_id, input, secret, context)


def registry(published: Iterable[EntryPoint] | None = None) -> Registry:
    """All connectors of this process. `published` replaces the installed entry points (tests)."""
    # Imported here so that a process which only validates names does not load database and mail drivers.
    from vespid_runtime.connectors import github, http, postgres, slack, smtp

    connectors = {module.connector.id: module.connector for module in (http, github, slack, postgres, smtp)}
    broken: list[BrokenConnector] = []
    for point in entry_points(group=ENTRY_POINT_GROUP) if published is None else published:
        package = point.dist.name if point.dist is not None else None
        try:
            loaded: object = point.load()
        except BaseException as failure:  # foreign import code may even call sys.exit
            if isinstance(failure, KeyboardInterrupt):
                raise
            broken.append(BrokenConnector(point.name, package, f"cannot be imported: {failure!r}"))
            continue
        problem = _problem(loaded, connectors)
        if problem is not None:
            broken.append(BrokenConnector(point.name, package, problem))
        elif isinstance(loaded, Connector):
            connectors[loaded.id] = loaded
    return Registry(MappingProxyType(connectors), tuple(broken))


def _problem(loaded: object, taken: Mapping[str, Connector]) -> str | None:
    if not isinstance(loaded, Connector):
        return f"is a {type(loaded).__name__}, not a vespid_runtime.connectors.Connector"
    if not CONNECTOR_ID.fullmatch(loaded.id):
        return f"has the id {loaded.id!r}, which must match {CONNECTOR_ID.pattern}"
    if loaded.id in taken:
        return f"has the id {loaded.id!r}, which another connector has already"
    if not loaded.actions:
        return "has no actions"
    names = [action.id for action in loaded.actions]
    if len(set(names)) != len(names):
        return "has two actions of one name"
    for action in loaded.actions:
        if not ACTION_ID.fullmatch(action.id):
            return f"has an action {action.id!r}, which must match {ACTION_ID.pattern}"
        try:
            _ = action.input_schema
        except Exception as failure:  # noqa: BLE001 - reported to the operator, see `broken`
            return f"has an action {action.id!r} without a JSON schema: {failure!r}"
    return None
