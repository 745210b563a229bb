"""Settings: names, defaults, clamps, refusals, and the page that documents them."""

from pathlib import Path

import msgspec
import pytest

from vespid.settings import (
    LOCAL_SERVICE_TOKEN,
    ApiSettings,
    EngineRunnerSettings,
    GatewaySettings,
    ProcessSettings,
    SettingsRefused,
    WorkerSettings,
)
from vespid.settings.reading import declared
from vespid.settings.table import PROCESSES, settings_page
from vespid_protocol.trust import TRUST_MARGIN_MS

ROOT = Path(__file__).parents[4]
DATABASES = {"DATABASE_URL": "postgresql://db/x", "REDIS_URL": "redis://cache"}
TEST = {**DATABASES, "VESPID_ENV": "test"}
ENGINE_RUNNER = {"ENGINE_RUNNER_BASE_URL": "http://engine-runner:3003", "ENGINE_RUNNER_TOKEN": "a token of its own"}
ALL = list(PROCESSES.values())


@pytest.mark.parametrize("settings", ALL)
def test_every_field_has_a_variable_of_its_own_and_a_meaning(settings: type[ProcessSettings]) -> None:
    rows = declared(settings)
    variables = [row.setting.variable for row in rows]
    assert len(set(variables)) == len(variables)
    assert all(row.setting.doc.endswith(".") for row in rows)


@pytest.mark.parametrize("settings", ALL)
def test_every_number_has_a_range_that_its_default_is_in(settings: type[ProcessSettings]) -> None:
    for row in declared(settings):
        if isinstance(row.default, int) and not isinstance(row.default, bool):
            assert row.setting.low is not None
            assert row.setting.high is not None
            assert row.setting.low <= row.default <= row.setting.high, row.setting.variable


def test_one_variable_means_one_thing_in_every_process() -> None:
    meanings: dict[str, set[tuple[object, object, str]]] = {}
    for settings in ALL:
        for row in declared(settings):
            meanings.setdefault(row.setting.variable, set()).add((row.setting.low, row.setting.high, str(row.kind)))
    assert {variable: kinds for variable, kinds in meanings.items() if len(kinds) > 1} == {}


def test_the_documentation_is_what_the_declarations_say() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "run `make docs`"


@pytest.mark.parametrize(
    ("settings", "field", "variable", "default"),
    [
        (GatewaySettings, "host", "GATEWAY_HOST", "0.0.0.0"),
        (GatewaySettings, "port", "GATEWAY_PORT", 3002),
        (GatewaySettings, "role", "GATEWAY_ROLE", "all"),
        (GatewaySettings, "log_level", "GATEWAY_LOG_LEVEL", "info"),
        (GatewaySettings, "gateway_agent_stale_ms", "GATEWAY_AGENT_STALE_MS", 60_000),
        (GatewaySettings, "gateway_http_url", "GATEWAY_HTTP_URL", "http://localhost:3002"),
        (GatewaySettings, "gateway_ws_url", "GATEWAY_WS_URL", "ws://localhost:3002/ws/executor"),
        (GatewaySettings, "results_ttl_sec", "GATEWAY_RESULTS_TTL_SEC", 900),
        (GatewaySettings, "gateway_org_max_inflight", "GATEWAY_ORG_MAX_INFLIGHT", 50),
        (GatewaySettings, "session_memory_root", "SESSION_MEMORY_ROOT", "/tmp/vespid-memory"),
        (GatewaySettings, "engine_runner_timeout_ms", "ENGINE_RUNNER_TIMEOUT_MS", 30_000),
        (GatewaySettings, "continuation_push", "GATEWAY_CONTINUATION_PUSH", True),
        (WorkerSettings, "node_exec_timeout_ms", "NODE_EXEC_TIMEOUT_MS", 60_000),
        (WorkerSettings, "continuation_queue_name", "WORKFLOW_CONTINUATION_QUEUE_NAME", "workflow-continuations"),
        (WorkerSettings, "continuation_poll_ms", "WORKFLOW_CONTINUATION_POLL_MS", 2_000),
        (WorkerSettings, "continuation_concurrency", "WORKFLOW_CONTINUATION_CONCURRENCY", 10),
        (WorkerSettings, "retry_attempts", "WORKFLOW_RETRY_ATTEMPTS", 3),
        (WorkerSettings, "retry_backoff_ms", "WORKFLOW_RETRY_BACKOFF_MS", 5_000),
        (WorkerSettings, "event_payload_max_chars", "WORKFLOW_EVENT_PAYLOAD_MAX_CHARS", 4_000),
        (WorkerSettings, "remote_event_payload_max_chars", "WORKFLOW_REMOTE_EVENT_PAYLOAD_MAX_CHARS", 20_000),
        (ApiSettings, "port", "API_PORT", 3001),
        (EngineRunnerSettings, "port", "ENGINE_RUNNER_PORT", 3003),
    ],
)
def test_names_and_defaults_are_those_of_the_runbook(
    settings: type[ProcessSettings], field: str, variable: str, default: object
) -> None:
    assert getattr(settings.from_env(TEST), field) == default
    assert {row.field: row.setting.variable for row in declared(settings)}[field] == variable


@pytest.mark.parametrize(("given", "used"), [("1000", 30_000), ("45000", 45_000), ("900000", 300_000)])
def test_the_stale_time_is_clamped_as_the_contract_says(given: str, used: int) -> None:
    assert ApiSettings.from_env({**TEST, "GATEWAY_AGENT_STALE_MS": given}).gateway_agent_stale_ms == used


def test_heartbeat_lease_and_stale_time_are_brought_into_order() -> None:
    read = GatewaySettings.from_env(
        {**TEST, "GATEWAY_AGENT_STALE_MS": "30000", "GATEWAY_LEASE_MS": "45000", "GATEWAY_HEARTBEAT_MS": "20000"}
    )
    assert (read.gateway_agent_stale_ms, read.agent_lease_ms, read.heartbeat_ms) == (30_000, 30_000, 10_000)


def test_the_shortest_lease_leaves_an_agent_two_heartbeats_within_its_safety_margin() -> None:
    read = GatewaySettings.from_env({**TEST, "GATEWAY_LEASE_MS": "500"})
    assert (read.agent_lease_ms, read.heartbeat_ms) == (8_000, 1_500)
    assert read.agent_lease_ms - TRUST_MARGIN_MS >= 2 * read.heartbeat_ms


def test_a_process_renews_before_its_agents_would_look_offline() -> None:
    env = {"GATEWAY_AGENT_STALE_MS": "30000", "VESPID_PROCESS_LEASE_MS": "120000", "VESPID_PROCESS_RENEW_MS": "40000"}
    assert WorkerSettings.from_env({**TEST, **env}).process_renew_ms == 10_000


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"GATEWAY_PORT": "abc"}, ("GATEWAY_PORT", "'abc'", "0 to 65535")),
        ({"GATEWAY_ROLE": "boss"}, ("GATEWAY_ROLE", "'boss'", "edge or brain or all")),
        ({"GATEWAY_CONTINUATION_PUSH": "maybe"}, ("GATEWAY_CONTINUATION_PUSH", "'maybe'", "1 or 0")),
        ({"VESPID_MODEL_PRICES": '{"gpt":{}}'}, ("VESPID_MODEL_PRICES", "inputPerMillion")),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_name_and_what_is_allowed(
    env: dict[str, str], names: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsRefused) as refused:
        GatewaySettings.from_env({**TEST, **env})
    assert all(name in str(refused.value) for name in names)


def missing_in_production(settings: type[ProcessSettings], **env: str) -> set[str]:
    try:
        settings.from_env(env)
    except SettingsRefused as refused:
        return {problem.split()[0] for problem in refused.problems}
    return set()


def test_production_is_the_default_and_names_everything_that_is_missing_at_once() -> None:
    assert missing_in_production(ApiSettings) == {"DATABASE_URL", "REDIS_URL", "AUTH_TOKEN_SECRET"}
    assert missing_in_production(WorkerSettings) == {"DATABASE_URL", "REDIS_URL", *ENGINE_RUNNER}
    assert missing_in_production(EngineRunnerSettings) == {"ENGINE_RUNNER_TOKEN"}


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("edge", {"GATEWAY_SERVICE_TOKEN", "AUTH_TOKEN_SECRET"}),
        ("brain", {"GATEWAY_SERVICE_TOKEN", "ENGINE_RUNNER_TOKEN", "ENGINE_RUNNER_BASE_URL"}),
        ("all", {"GATEWAY_SERVICE_TOKEN", "AUTH_TOKEN_SECRET", "ENGINE_RUNNER_TOKEN", "ENGINE_RUNNER_BASE_URL"}),
    ],
)
def test_a_gateway_needs_in_production_what_its_role_uses(role: str, missing: set[str]) -> None:
    assert missing_in_production(GatewaySettings, GATEWAY_ROLE=role, **DATABASES) == missing


def test_production_refuses_a_secret_that_is_published_in_our_source() -> None:
    env = {**DATABASES, **ENGINE_RUNNER, "GATEWAY_SERVICE_TOKEN": LOCAL_SERVICE_TOKEN}
    assert missing_in_production(WorkerSettings, **env) == {"GATEWAY_SERVICE_TOKEN"}
    assert "GATEWAY_SERVICE_TOKEN" in missing_in_production(
        GatewaySettings, GATEWAY_SERVICE_TOKEN=LOCAL_SERVICE_TOKEN, **DATABASES
    )


def test_a_worker_without_gateway_starts_and_says_that_it_has_none() -> None:
    assert not WorkerSettings.from_env({**DATABASES, **ENGINE_RUNNER}).has_gateway


def test_origins_are_those_of_the_web_addresses() -> None:
    read = ApiSettings.from_env({**TEST, "WEB_BASE_URL": "https://app.example.com/x, http://localhost:3000"})
    assert read.allowed_origins == {"https://app.example.com", "http://localhost:3000"}


def test_settings_cannot_be_changed_and_do_not_show_their_secrets() -> None:
    read = ApiSettings.from_env({**TEST, "AUTH_TOKEN_SECRET": "canary-secret"})
    with pytest.raises(AttributeError):
        read.port = 1  # type: ignore[misc]
    assert "canary-secret" not in repr(read)
    assert "postgresql://db/x" not in repr(msgspec.structs.replace(read, port=1))
