"""What follows from an organization's settings."""

from __future__ import annotations

import msgspec

from vespid.domain.policy import (
    Backoff,
    ExecutionSettings,
    OrgSettings,
    QuotaSettings,
    ToolSettings,
    effective_tools,
    pause_ms,
)
from vespid.domain.quota import org_max_in_flight


def test_defaults_are_those_of_the_contract():
    assert msgspec.to_builtins(msgspec.json.decode(b"{}", type=OrgSettings)) == {
        "tools": {"shellRunEnabled": False, "shellSecretsEnabled": False},
        "execution": {"quotas": {"maxExecutorInFlight": None}},
        "llm": {"defaults": {"primary": {"provider": None, "model": None, "secretId": None}}},
    }


def test_shell_tool_needs_the_organizations_consent():
    allow = ["memory.get", "shell.run", "memory.get"]
    assert effective_tools(allow, OrgSettings()) == ["memory.get"]
    consent = OrgSettings(tools=ToolSettings(shell_run_enabled=True))
    assert effective_tools(allow, consent) == ["memory.get", "shell.run"]


def test_pauses_double_up_to_a_minute():
    assert [pause_ms(Backoff(9, 5_000), failures) for failures in range(1, 7)] == [
        5_000,
        10_000,
        20_000,
        40_000,
        60_000,
        60_000,
    ]
    assert pause_ms(Backoff(100, 1), 99) == 60_000
    assert pause_ms(Backoff(2, 0), 1) == 0


def test_quota_is_the_organizations_own_or_the_gateways():
    assert org_max_in_flight(OrgSettings()) == 50
    assert org_max_in_flight(OrgSettings(), default=0) == 1
    own = OrgSettings(execution=ExecutionSettings(QuotaSettings(3)))
    assert org_max_in_flight(own, default=99) == 3
