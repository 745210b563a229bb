"""Settings of organizations: defaults, strict merging, and what follows from them."""

from __future__ import annotations

import msgspec
import pytest

from vespid.domain.policy import (
    Backoff,
    OrgSettings,
    SettingsInvalid,
    effective_tools,
    merge_settings,
    pause_ms,
    read_settings,
)
from vespid.domain.quota import org_max_in_flight


def test_defaults_are_those_of_the_contract():
    assert msgspec.to_builtins(read_settings(b"{}")) == {
        "tools": {"shellRunEnabled": False, "shellSecretsEnabled": False},
        "execution": {"quotas": {"maxExecutorInFlight": None}},
        "llm": {"defaults": {"primary": None}},
    }


def test_partial_document_changes_only_what_it_names():
    first = merge_settings(OrgSettings(), {"tools": {"shellRunEnabled": True}})
    second = merge_settings(first, {"execution": {"quotas": {"maxExecutorInFlight": 5}}})
    assert second.tools.shell_run_enabled is True
    assert second.execution.quotas.max_executor_in_flight == 5
    assert merge_settings(second, {"execution": {"quotas": {"maxExecutorInFlight": None}}}).tools == second.tools


def test_model_is_merged_and_taken_back_by_null():
    chosen = merge_settings(OrgSettings(), {"llm": {"defaults": {"primary": {"provider": "openai", "model": "m"}}}})
    other = merge_settings(chosen, {"llm": {"defaults": {"primary": {"model": "n"}}}})
    assert (other.llm.defaults.primary.provider, other.llm.defaults.primary.model) == ("openai", "n")
    assert merge_settings(other, {"llm": {"defaults": {"primary": None}}}).llm.defaults.primary is None


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        ([], ""),
        ({"tool": {}}, "tool"),
        ({"tools": {"shellRun": True}}, "tools.shellRun"),
        ({"tools": True}, "tools"),
        ({"tools": None}, "tools"),
        ({"tools": {"shellRunEnabled": "yes"}}, "tools.shellRunEnabled"),
        ({"tools": {"shellRunEnabled": None}}, "tools.shellRunEnabled"),
        ({"execution": {"quotas": {"maxExecutorInFlight": 0}}}, "execution.quotas.maxExecutorInFlight"),
        ({"llm": {"defaults": {"primary": {"key": "x"}}}}, "llm.defaults.primary.key"),
    ],
)
def test_what_is_no_setting_is_refused_with_its_path(patch, path):
    with pytest.raises(SettingsInvalid) as caught:
        merge_settings(OrgSettings(), patch)
    assert list(caught.value.field_errors) == [path]


def test_shell_tool_needs_the_organizations_consent():
    allow = ["memory.get", "shell.run", "memory.get"]
    assert effective_tools(allow, OrgSettings()) == ["memory.get"]
    consent = merge_settings(OrgSettings(), {"tools": {"shellRunEnabled": True}})
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
    own = merge_settings(OrgSettings(), {"execution": {"quotas": {"maxExecutorInFlight": 3}}})
    assert org_max_in_flight(own, default=99) == 3
