"""Connectors: what a `connector.action` node can do, the same code in the cloud worker and on the agent."""

from vespid_runtime.connectors.contract import (
    Action,
    ActionContext,
    ActionInput,
    ActionLimits,
    Connector,
    ConnectorError,
    invalid_input,
)
from vespid_runtime.connectors.registry import (
    ENTRY_POINT_GROUP,
    BrokenConnector,
    ConnectorInfo,
    Registry,
    registry,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "Action",
    "ActionContext",
    "ActionInput",
    "ActionLimits",
    "BrokenConnector",
    "Connector",
    "ConnectorError",
    "ConnectorInfo",
    "Registry",
    "invalid_input",
    "registry",
]
