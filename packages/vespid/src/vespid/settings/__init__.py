"""What the environment tells each process, read once into one frozen object.

A field's declaration is everything there is to know of it: variable, default, range, whether production needs it, what
it means. `docs/settings.md` is made from it, and a test compares the two.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias
from urllib.parse import urlsplit

import msgspec

from vespid.domain.price import Prices
from vespid.settings.reading import LOCAL_SECRET_PREFIX, Need, Setting, SettingsRefused, declared, log, read
from vespid_protocol.trust import TRUST_MARGIN_MS

__all__ = [
    "ApiSettings",
    "CoreSettings",
    "EngineRunnerSettings",
    "GatewaySettings",
    "ProcessSettings",
    "RunSettings",
    "SettingsRefused",
    "WorkerSettings",
]

LogLevel = Literal["debug", "info", "warn", "warning", "error"]

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

# Good enough to try things out on one machine; production refuses them.
LOCAL_SERVICE_TOKEN = LOCAL_SECRET_PREFIX + "gateway-service-token"
LOCAL_AUTH_SECRET = LOCAL_SECRET_PREFIX + "auth-token-secret-for-one-machine-only"
LOCAL_ENGINE_TOKEN = LOCAL_SECRET_PREFIX + "engine-runner-token"


def _folder(text: str) -> None:
    """Raises ValueError."""
    if not Path(text).is_dir():
        raise ValueError("there is no such folder")


# Read by several processes.
EngineRunnerToken: TypeAlias = Annotated[
    str,
    Setting(
        "ENGINE_RUNNER_TOKEN",
        "Shared by worker, the gateway's brain and the engine-runner.",
        need=Need.PRODUCTION,
        secret=True,
    ),
]
EngineRunnerTimeoutMs: TypeAlias = Annotated[
    int, Setting("ENGINE_RUNNER_TIMEOUT_MS", "Longest wait for one model call.", 1_000, 600_000)
]


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every server process reads."""

    env: Annotated[
        Literal["production", "local", "test"],
        Setting("VESPID_ENV", "What kind of installation this is; `vespid up` and the demo set `local`."),
    ] = "production"
    log_level: Annotated[LogLevel, Setting("VESPID_LOG_LEVEL", "How much is logged.")] = "info"
    shutdown_grace_ms: Annotated[
        int,
        Setting("VESPID_SHUTDOWN_GRACE_MS", "How long SIGTERM lets requests in progress finish.", 0, 600_000),
    ] = 20_000

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the environment. Raises SettingsRefused with everything that is wrong with it."""
        return read(cls, env)

    def __repr__(self) -> str:
        """Without the secrets: settings are shown in errors and logs."""
        shown = (
            f"{row.field}={'…' if row.setting.secret else repr(getattr(self, row.field))}"
            for row in declared(type(self))
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def is_production(self) -> bool:
        """Whether defaults that are only good for trying out are refused."""
        return self.env == "production"


class CoreSettings(ProcessSettings, frozen=True, kw_only=True):
    """What every process with the databases reads."""

    database_url: Annotated[
        str,
        Setting("DATABASE_URL", "PostgreSQL 15 or later, `postgresql://…`.", need=Need.ALWAYS, secret=True),
    ] = ""
    redis_url: Annotated[
        str, Setting("REDIS_URL", "Redis 7 or Valkey, `redis://…`.", need=Need.ALWAYS, secret=True)
    ] = ""
    database_pool_size: Annotated[
        int, Setting("VESPID_DATABASE_POOL_SIZE", "Connections of the pool of one process.", 2, 200)
    ] = 10
    database_statement_cache: Annotated[
        int,
        Setting(
            "VESPID_DATABASE_STATEMENT_CACHE",
            "Prepared statements kept per connection; 0 behind a PgBouncer that pools transactions.",
            0,
            100_000,
        ),
    ] = 1024
    secrets_kek_id: Annotated[
        str, Setting("SECRETS_KEK_ID", "Name of the active key-encryption key; without it secrets answer 503.")
    ] = ""
    secrets_kek_base64: Annotated[
        str, Setting("SECRETS_KEK_BASE64", "The active key-encryption key: 32 bytes in base64.", secret=True)
    ] = ""
    secrets_kek_previous: Annotated[
        str,
        Setting("SECRETS_KEK_PREVIOUS", "Earlier keys, `<id>=<base64>,…`; they decrypt only.", secret=True),
    ] = ""
    gateway_agent_stale_ms: Annotated[
        int,
        Setting("GATEWAY_AGENT_STALE_MS", "An agent not heard of for so long is offline.", 30_000, 300_000),
    ] = 60_000
    gateway_ws_url: Annotated[
        str, Setting("GATEWAY_WS_URL", "Where agents connect; told to them when they are paired.")
    ] = "ws://localhost:3002/ws/executor"
    gateway_org_max_inflight: Annotated[
        int,
        Setting("GATEWAY_ORG_MAX_INFLIGHT", "Work in flight per organization, where it has no quota.", 1, 100_000),
    ] = 50
    web_base_url: Annotated[
        tuple[str, ...],
        Setting("WEB_BASE_URL", "Where people open the pages; its origin may call the API. Several with commas."),
    ] = ("http://localhost:3001",)
    trusted_proxies: Annotated[
        tuple[str, ...],
        Setting("VESPID_TRUSTED_PROXIES", "Addresses or networks whose `X-Forwarded-For` is believed."),
    ] = ()

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins of WEB_BASE_URL."""
        parts = (urlsplit(url) for url in self.web_base_url)
        return frozenset(f"{part.scheme}://{part.netloc}" for part in parts)

    @property
    def has_kek(self) -> bool:
        """Whether secrets can be kept at all."""
        return bool(self.secrets_kek_id and self.secrets_kek_base64)


class ApiSettings(CoreSettings, frozen=True, kw_only=True):
    """The control plane: `vespid api`."""

    host: Annotated[str, Setting("API_HOST", "Address to listen on.")] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Setting("API_PORT", "Port to listen on.", 0, 65_535)] = 3001
    auth_token_secret: Annotated[
        str,
        Setting(
            "AUTH_TOKEN_SECRET", "Signs access tokens; the same in api and gateway.", need=Need.PRODUCTION, secret=True
        ),
    ] = LOCAL_AUTH_SECRET
    gateway_service_token: Annotated[
        str, Setting("GATEWAY_SERVICE_TOKEN", "Shared by worker, gateway and api for internal calls.", secret=True)
    ] = ""
    internal_api_service_token: Annotated[
        str,
        Setting(
            "INTERNAL_API_SERVICE_TOKEN", "For the internal routes of the api; else GATEWAY_SERVICE_TOKEN.", secret=True
        ),
    ] = ""
    gateway_http_url: Annotated[str, Setting("GATEWAY_HTTP_URL", "Where the gateway is called.")] = (
        "http://localhost:3002"
    )
    github_api_base_url: Annotated[str, Setting("GITHUB_API_BASE_URL", "GitHub's API, or an Enterprise server's.")] = (
        "https://api.github.com"
    )
    retry_attempts: Annotated[
        int, Setting("WORKFLOW_RETRY_ATTEMPTS", "Attempts of a run, the first included.", 1, 100)
    ] = 3
    continuation_queue_name: Annotated[
        str, Setting("WORKFLOW_CONTINUATION_QUEUE_NAME", "The Redis list on which continuations are woken.")
    ] = "workflow-continuations"
    agent_installer_enabled: Annotated[
        bool, Setting("AGENT_INSTALLER_ENABLED", "Whether `/v1/meta/agent-installer` answers with downloads.")
    ] = False
    agent_installer_repository: Annotated[
        str, Setting("AGENT_INSTALLER_REPOSITORY", "The repository whose releases carry the agent.")
    ] = "vespid-ai/vespid"
    agent_installer_channel: Annotated[
        str, Setting("AGENT_INSTALLER_CHANNEL", "`latest`, or the tag of a release.")
    ] = "latest"
    agent_installer_artifacts_dir: Annotated[
        str,
        Setting(
            "AGENT_INSTALLER_ARTIFACTS_DIR",
            "A folder with the agent's archives (`make agent-binary`), served here at `/downloads/` instead of a "
            "release's.",
            check=_folder,
        ),
    ] = ""
    rate_limit_enabled: Annotated[
        bool, Setting("VESPID_RATE_LIMIT_ENABLED", "Whether failures at unauthenticated routes are limited.")
    ] = True
    rate_limit_failures: Annotated[
        int, Setting("VESPID_RATE_LIMIT_FAILURES", "Failures per window before 429.", 1, 1_000_000)
    ] = 10
    rate_limit_window_sec: Annotated[
        int, Setting("VESPID_RATE_LIMIT_WINDOW_SEC", "Length of that window.", 1, 86_400)
    ] = 60

    @property
    def api_base(self) -> str:
        """Where people, and agents, find the API: the first of WEB_BASE_URL."""
        return self.web_base_url[0].rstrip("/") if self.web_base_url else f"http://localhost:{self.port}"

    @property
    def client_ws_url(self) -> str:
        """Where people's clients find the gateway: beside the socket of the agents."""
        parts = urlsplit(self.gateway_ws_url)
        path = parts.path.removesuffix("/ws/executor") + "/ws/client"
        return parts._replace(path=path, query="", fragment="").geturl()

    @property
    def internal_service_token(self) -> str:
        """What the internal routes demand; empty: they refuse everybody."""
        return self.internal_api_service_token or self.gateway_service_token


class RunSettings(CoreSettings, frozen=True, kw_only=True):
    """What every process that steps runs reads: they must read it alike."""

    node_exec_timeout_ms: Annotated[
        int,
        Setting("NODE_EXEC_TIMEOUT_MS", "Time of a node that names none, from the moment it is sent.", 1_000, _DAY_MS),
    ] = 60_000
    retry_attempts: Annotated[
        int, Setting("WORKFLOW_RETRY_ATTEMPTS", "Attempts of a run, the first included.", 1, 100)
    ] = 3
    retry_backoff_ms: Annotated[
        int, Setting("WORKFLOW_RETRY_BACKOFF_MS", "Pause before the first retry; doubled up to 60 s.", 0, 60_000)
    ] = 5_000
    event_payload_max_chars: Annotated[
        int,
        Setting("WORKFLOW_EVENT_PAYLOAD_MAX_CHARS", "Longest payload of an event before it is cut.", 200, 1_000_000),
    ] = 4_000
    remote_event_payload_max_chars: Annotated[
        int,
        Setting("WORKFLOW_REMOTE_EVENT_PAYLOAD_MAX_CHARS", "The same for events of an agent.", 200, 1_000_000),
    ] = 20_000
    continuation_queue_name: Annotated[
        str, Setting("WORKFLOW_CONTINUATION_QUEUE_NAME", "The Redis list on which continuations are woken.")
    ] = "workflow-continuations"
    continuation_push: Annotated[
        bool,
        Setting("GATEWAY_CONTINUATION_PUSH", "1: a result is applied as it comes; 0: the poll applies it."),
    ] = True
    github_api_base_url: Annotated[str, Setting("GITHUB_API_BASE_URL", "GitHub's API, or an Enterprise server's.")] = (
        "https://api.github.com"
    )
    model_prices: Annotated[
        str,
        Setting(
            "VESPID_MODEL_PRICES",
            'What models cost, as JSON: `{"openai/gpt-*":{"inputPerMillion":1.25,"outputPerMillion":10}}`, US dollars.',
            check=Prices.parse,
        ),
    ] = ""
    process_lease_ms: Annotated[
        int, Setting("VESPID_PROCESS_LEASE_MS", "A process not renewed for so long counts as dead.", 500, 120_000)
    ] = 15_000
    process_renew_ms: Annotated[
        int,
        Setting(
            "VESPID_PROCESS_RENEW_MS",
            "How often a process renews; at most a third of its lease, and of GATEWAY_AGENT_STALE_MS.",
            100,
            40_000,
        ),
    ] = 5_000
    agent_lease_ms: Annotated[
        int,
        Setting(
            "GATEWAY_LEASE_MS",
            "An agent lost for so long loses its work; at most GATEWAY_AGENT_STALE_MS.",
            # An agent trusts it for 5 s less, and needs time to ping in what is left.
            8_000,
            300_000,
        ),
    ] = 45_000

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the environment, and bring into order the times that depend on each other."""
        loaded = read(cls, env)
        lease = min(loaded.agent_lease_ms, loaded.gateway_agent_stale_ms)
        # An agent whose gateway has not renewed for the stale time is shown as offline.
        renew = min(loaded.process_renew_ms, loaded.process_lease_ms // 3, loaded.gateway_agent_stale_ms // 3)
        for field, variable, used in (
            ("agent_lease_ms", "GATEWAY_LEASE_MS", lease),
            ("process_renew_ms", "VESPID_PROCESS_RENEW_MS", renew),
        ):
            if getattr(loaded, field) != used:
                log.warning("setting_clamped", variable=variable, value=getattr(loaded, field), used=used)
        return msgspec.structs.replace(loaded, agent_lease_ms=lease, process_renew_ms=renew)


class GatewaySettings(RunSettings, frozen=True, kw_only=True):
    """The gateway: `vespid gateway`."""

    log_level: Annotated[LogLevel, Setting("GATEWAY_LOG_LEVEL", "How much the gateway logs.")] = "info"
    host: Annotated[str, Setting("GATEWAY_HOST", "Address to listen on.")] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Setting("GATEWAY_PORT", "Port to listen on.", 0, 65_535)] = 3002
    role: Annotated[
        Literal["edge", "brain", "all"],
        Setting("GATEWAY_ROLE", "edge: sockets and internal HTTP; brain: scheduling and sessions; all: both."),
    ] = "all"
    gateway_service_token: Annotated[
        str,
        Setting(
            "GATEWAY_SERVICE_TOKEN",
            "Shared by worker, gateway and api for internal calls.",
            need=Need.PRODUCTION,
            secret=True,
        ),
    ] = LOCAL_SERVICE_TOKEN
    auth_token_secret: Annotated[
        str,
        Setting(
            "AUTH_TOKEN_SECRET",
            "Signs access tokens; the same in api and gateway.",
            need=Need.PRODUCTION,
            roles=("edge",),
            secret=True,
        ),
    ] = LOCAL_AUTH_SECRET
    gateway_http_url: Annotated[
        str, Setting("GATEWAY_HTTP_URL", "Where other processes reach this gateway's internal HTTP.")
    ] = "http://localhost:3002"
    engine_runner_base_url: Annotated[
        str,
        Setting("ENGINE_RUNNER_BASE_URL", "Where the engine-runner is called.", need=Need.PRODUCTION, roles=("brain",)),
    ] = "http://localhost:3003"
    engine_runner_token: Annotated[
        str,
        Setting(
            "ENGINE_RUNNER_TOKEN",
            "Shared by worker, the gateway's brain and the engine-runner.",
            need=Need.PRODUCTION,
            roles=("brain",),
            secret=True,
        ),
    ] = LOCAL_ENGINE_TOKEN
    engine_runner_timeout_ms: EngineRunnerTimeoutMs = 30_000
    results_ttl_sec: Annotated[
        int, Setting("GATEWAY_RESULTS_TTL_SEC", "How long a result stays readable after it was applied.", 60, 604_800)
    ] = 900
    session_memory_root: Annotated[str, Setting("SESSION_MEMORY_ROOT", "Folder of the markdown memory workspaces.")] = (
        "/tmp/vespid-memory"  # noqa: S108
    )
    session_managed_tools: Annotated[
        tuple[str, ...],
        Setting(
            "SESSION_MANAGED_TOOLS", "Tools that sessions on managed hosts may use: names or patterns, with commas."
        ),
    ] = ("memory.*",)
    heartbeat_ms: Annotated[
        int,
        Setting(
            "GATEWAY_HEARTBEAT_MS",
            "How often agents ping; at most a third of GATEWAY_LEASE_MS, and half of what is left of it after 5 s.",
            100,
            100_000,
        ),
    ] = 10_000
    max_frame_bytes: Annotated[
        int,
        Setting(
            "GATEWAY_MAX_FRAME_BYTES", "Largest frame agreed with agents; four times that closes.", 65_536, 67_108_864
        ),
    ] = 4_194_304
    accept_timeout_ms: Annotated[
        int, Setting("GATEWAY_ACCEPT_TIMEOUT_MS", "An agent must say it has received work within.", 100, 60_000)
    ] = 5_000
    ws_compression: Annotated[
        bool, Setting("GATEWAY_WS_COMPRESSION", "permessage-deflate; costs four times the memory per idle socket.")
    ] = False
    feed_poll_ms: Annotated[
        int, Setting("VESPID_FEED_POLL_MS", "How often revocations and tags are read from Postgres.", 50, 5_000)
    ] = 500

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the environment, and bring into order the times that depend on each other."""
        loaded = super().from_env(env)
        # Two beats fit into the time for which an agent trusts its lease: one answer may come late or not at all.
        trusted_ms = loaded.agent_lease_ms - TRUST_MARGIN_MS
        heartbeat = min(loaded.heartbeat_ms, loaded.agent_lease_ms // 3, trusted_ms // 2)
        if heartbeat != loaded.heartbeat_ms:
            log.warning("setting_clamped", variable="GATEWAY_HEARTBEAT_MS", value=loaded.heartbeat_ms, used=heartbeat)
        return msgspec.structs.replace(loaded, heartbeat_ms=heartbeat)


class WorkerSettings(RunSettings, frozen=True, kw_only=True):
    """The worker: `vespid worker`."""

    host: Annotated[str, Setting("WORKER_HOST", "Address of its health and metrics.")] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Setting("WORKER_PORT", "Port of its health and metrics; 0: it has none.", 0, 65_535)] = 0
    gateway_http_url: Annotated[
        str, Setting("GATEWAY_HTTP_URL", "Where the gateway is called; without it remote nodes fail at once.")
    ] = ""
    gateway_service_token: Annotated[
        str,
        Setting("GATEWAY_SERVICE_TOKEN", "Shared with the gateway; without it remote nodes fail at once.", secret=True),
    ] = ""
    continuation_poll_ms: Annotated[
        int,
        Setting("WORKFLOW_CONTINUATION_POLL_MS", "How often the sweep looks for what is due.", 50, 60_000),
    ] = 2_000
    continuation_concurrency: Annotated[
        int, Setting("WORKFLOW_CONTINUATION_CONCURRENCY", "Continuations applied at once.", 1, 1_000)
    ] = 10
    egress_allow: Annotated[
        tuple[str, ...],
        Setting(
            "VESPID_EGRESS_ALLOW", "Hosts and networks that connectors in the cloud may reach besides public ones."
        ),
    ] = ()
    engine_runner_base_url: Annotated[
        str, Setting("ENGINE_RUNNER_BASE_URL", "Where the engine-runner is called.", need=Need.PRODUCTION)
    ] = "http://localhost:3003"
    engine_runner_token: EngineRunnerToken = LOCAL_ENGINE_TOKEN
    engine_runner_timeout_ms: EngineRunnerTimeoutMs = 30_000
    run_retention_days: Annotated[
        int, Setting("WORKFLOW_RUN_RETENTION_DAYS", "Finished runs older than that are removed; 0: never.", 0, 36_500)
    ] = 0

    @property
    def has_gateway(self) -> bool:
        """Whether remote nodes can be sent; without they fail with GATEWAY_NOT_CONFIGURED."""
        return bool(self.gateway_http_url and self.gateway_service_token)


class EngineRunnerSettings(ProcessSettings, frozen=True, kw_only=True):
    """The engine-runner: `vespid engine-runner`. It has no database."""

    host: Annotated[str, Setting("ENGINE_RUNNER_HOST", "Address to listen on.")] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Setting("ENGINE_RUNNER_PORT", "Port to listen on.", 0, 65_535)] = 3003
    engine_runner_token: EngineRunnerToken = LOCAL_ENGINE_TOKEN
    engine_runner_timeout_ms: EngineRunnerTimeoutMs = 30_000
    max_concurrent: Annotated[
        int,
        Setting(
            "ENGINE_RUNNER_MAX_CONCURRENT",
            "Model calls at once of one organization to one provider; further ones wait their turn.",
            1,
            10_000,
        ),
    ] = 20
    egress_allow: Annotated[
        tuple[str, ...],
        Setting("VESPID_EGRESS_ALLOW", "Hosts and networks that tenants' base URLs may name besides public ones."),
    ] = ()
    openai_base_url: Annotated[
        str, Setting("OPENAI_BASE_URL", "Where `openai` is called, instead of its own address.")
    ] = ""
    anthropic_base_url: Annotated[
        str, Setting("ANTHROPIC_BASE_URL", "Where `anthropic` is called, instead of its own address.")
    ] = ""
    gemini_base_url: Annotated[
        str, Setting("GEMINI_BASE_URL", "Where `gemini` is called, instead of its own address.")
    ] = ""
    openrouter_base_url: Annotated[
        str, Setting("OPENROUTER_BASE_URL", "Where `openrouter` is called, instead of its own address.")
    ] = ""
    openai_compatible_base_url: Annotated[
        str,
        Setting(
            "OPENAI_COMPATIBLE_BASE_URL",
            "Where `openai-compatible` is called when the request names no place: vLLM, Ollama and the like.",
        ),
    ] = ""
