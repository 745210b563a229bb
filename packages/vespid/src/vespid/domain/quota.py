"""How much of an organization's work may be in flight on executors at once."""

from __future__ import annotations

from vespid.domain.policy import OrgSettings

# GATEWAY_ORG_MAX_INFLIGHT
ORG_MAX_IN_FLIGHT_DEFAULT = 50
ORG_MAX_IN_FLIGHT_MIN = 1


def org_max_in_flight(settings: OrgSettings, default: int = ORG_MAX_IN_FLIGHT_DEFAULT) -> int:
    """The organization's own limit, else the gateway's default; at least 1."""
    own = settings.execution.quotas.max_executor_in_flight
    return max(ORG_MAX_IN_FLIGHT_MIN, default if own is None else own)
