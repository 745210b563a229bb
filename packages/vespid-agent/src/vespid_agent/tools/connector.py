"""Connectors as tools: the same code as in the cloud, through this agent's network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vespid_agent.tools.scope import ToolScope
from vespid_runtime.connectors import Registry
from vespid_runtime.egress import GuardedHttp
from vespid_runtime.tools.connector import connector_tools
from vespid_runtime.tools.tool import Tool


class ConnectorSource:
    """`connector.<id>.<action>`, for every connector that is installed."""

    def __init__(self, registry: Registry, http: GuardedHttp, operator_base_urls: Mapping[str, str]) -> None:
        self._registry = registry
        self._http = http
        self._operator_base_urls = operator_base_urls

    def tools(self, scope: ToolScope) -> Sequence[Tool]:
        secrets = {
            connector: scope.secrets[secret_id]
            for connector, secret_id in scope.connector_secrets.items()
            if secret_id in scope.secrets
        }
        return connector_tools(
            self._registry,
            self._http,
            request_id=scope.request_id,
            secrets=secrets,
            operator_base_urls=self._operator_base_urls,
            request_base_urls=scope.base_urls,
        )
