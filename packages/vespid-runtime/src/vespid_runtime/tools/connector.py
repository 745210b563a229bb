"""`connector.<id>.<action>`: what a workflow's `connector.action` can do, done because a model asked for it.

    tools = connector_tools(registry(), http, request_id=…, secrets={"github": …})

The one thing to know: which secret an action uses is decided by the workflow, one for each connector, and never by the
model. It is not shown to it either: templates in what the model wrote are not filled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vespid_protocol.codes import Code
from vespid_runtime.connectors import ActionContext, ActionLimits, Connector, ConnectorError, Registry
from vespid_runtime.connectors.contract import AnyAction
from vespid_runtime.egress import GuardedHttp
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse

_DEFAULT_LIMITS = ActionLimits()


def connector_tools(
    registry: Registry,
    http: GuardedHttp,
    *,
    request_id: str,
    secrets: Mapping[str, str] | None = None,
    allow: Iterable[str] | None = None,
    operator_base_urls: Mapping[str, str] | None = None,
    request_base_urls: Mapping[str, str] | None = None,
    limits: ActionLimits = _DEFAULT_LIMITS,
) -> list[Tool]:
    """A tool for every action. `secrets`: values by connector id. `allow`: as in `tools.allow`; None: all there are."""
    allowed = None if allow is None else tuple(allow)
    ways = _Ways(http, request_id, dict(operator_base_urls or {}), dict(request_base_urls or {}), limits)
    tools: list[Tool] = [
        ConnectorTool(connector, action, action.input_schema, ways, (secrets or {}).get(connector.id) or None)
        for connector in registry.connectors.values()
        for action in connector.actions
    ]
    return [tool for tool in tools if allowed is None or is_allowed(tool.id, allowed)]


@dataclass(frozen=True, slots=True)
class _Ways:
    """What all calls of a turn have in common."""

    http: GuardedHttp
    request_id: str
    operator_base_urls: Mapping[str, str]
    request_base_urls: Mapping[str, str]
    limits: ActionLimits

    def context(self, use: ToolUse) -> ActionContext:
        return ActionContext(
            http=self.http,
            idempotency_key=use.key,
            request_id=self.request_id,
            limits=replace(self.limits, timeout_ms=min(self.limits.timeout_ms, use.timeout_ms)),
            operator_base_urls=self.operator_base_urls,
            request_base_urls=self.request_base_urls,
        )


@dataclass(frozen=True, slots=True)
class ConnectorTool:
    """One action of one connector."""

    _connector: Connector
    _action: AnyAction
    input_schema: dict[str, object]
    _ways: _Ways
    _secret: str | None = field(repr=False)

    @property
    def id(self) -> str:
        return f"connector.{self._connector.id}.{self._action.id}"

    @property
    def description(self) -> str:
        return self._action.description or f"{self._connector.display_name}: {self._action.id}"

    @property
    def secrets(self) -> tuple[str, ...]:
        return () if self._secret is None else (self._secret,)

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        """What the action answers. Raises ToolError with the connector's code."""
        connector = self._connector
        if connector.requires_secret and self._secret is None:
            raise ToolError(
                Code.SECRET_REQUIRED,
                f"{self.id} needs a secret and was given none: the workflow names it in "
                f"config.tools.auth.{connector.id}.secretId",
            )
        try:
            return await connector.run(self._action.id, arguments, self._secret, self._ways.context(use))
        except ConnectorError as failed:
            raise ToolError(failed.code, failed.message) from None
