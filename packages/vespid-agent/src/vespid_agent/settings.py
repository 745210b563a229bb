"""What the environment tells the agent, read once into a frozen object.

One declaration per setting: the field, its variable, its clamp and its row in `docs/agent.md` are one line each below,
and a test ties them together. Paths may begin with `~`.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec


class SettingInvalid(ValueError):
    """A variable holds what its field cannot be."""


@dataclass(frozen=True)
class Setting:
    """How one field is read: its variable, what it means to an operator, and the range numbers are clamped to."""

    variable: str
    doc: str
    low: float | None = None
    high: float | None = None
    # Its value is shown nowhere.
    secret: bool = False


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every variable that the agent reads."""

    tags: Annotated[tuple[str, ...], Setting("VESPID_AGENT_TAGS", "Tags reported as a hint; they never route.")] = ()
    max_in_flight: Annotated[int, Setting("VESPID_AGENT_MAX_IN_FLIGHT", "How many requests run at once.", 1, 200)] = 10
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Setting("VESPID_AGENT_LOG_LEVEL", "How much is logged.")
    ] = "info"
    log_file_mb: Annotated[
        int,
        Setting("VESPID_AGENT_LOG_FILE_MB", "How much of its log is kept beside the config; 0: nothing.", 0, 10_240),
    ] = 40
    tls_ca_file: Annotated[
        Path | None,
        Setting("VESPID_AGENT_TLS_CA_FILE", "PEM bundle that is trusted beside the system's, for a private CA."),
    ] = None
    drain_ms: Annotated[
        int, Setting("VESPID_AGENT_DRAIN_MS", "How long SIGTERM lets running work finish.", 0, 24 * 3600 * 1000)
    ] = 30_000
    exec_backend: Annotated[
        Literal["host", "bubblewrap", "docker"] | None,
        Setting(
            "VESPID_AGENT_EXEC_BACKEND",
            "Where shell tasks run: `host`, `bubblewrap` or `docker`. Unset: `host`; on a managed agent docker, else "
            "bubblewrap.",
        ),
    ] = None
    workdir_root: Annotated[
        Path, Setting("VESPID_AGENT_WORKDIR_ROOT", "Folder under which each run has its own working directory.")
    ] = Path("~/.vespid/workdir")
    workdir_quota_mb: Annotated[
        int,
        Setting("VESPID_AGENT_WORKDIR_QUOTA_MB", "How much a task may keep in its folder; 0: no limit.", 0, 1_048_576),
    ] = 1024
    workdir_retention_hours: Annotated[
        int,
        Setting(
            "VESPID_AGENT_WORKDIR_RETENTION_HOURS", "How long a run's folder is kept after its last use.", 0, 87_600
        ),
    ] = 24
    host_output_max_chars: Annotated[
        int,
        Setting("VESPID_AGENT_HOST_OUTPUT_MAX_CHARS", "Characters kept of each output stream.", 1_000, 10_000_000),
    ] = 65_536
    host_kill_grace_ms: Annotated[
        int, Setting("VESPID_AGENT_HOST_KILL_GRACE_MS", "Time between SIGTERM and SIGKILL of a task.", 0, 60_000)
    ] = 500
    env_passthrough: Annotated[
        tuple[str, ...],
        Setting(
            "VESPID_AGENT_ENV_PASSTHROUGH",
            "Own variables that nodes may ask for, names and globs; empty: all (none on a managed agent). Never "
            "`VESPID_*` nor our tokens, and `DATABASE_URL` and `REDIS_URL` only by name.",
        ),
    ] = ()
    docker_image: Annotated[str, Setting("VESPID_AGENT_DOCKER_IMAGE", "Image of docker tasks that name none.")] = (
        "node:24-alpine"
    )
    docker_network_default: Annotated[
        Literal["none", "enabled"],
        Setting("VESPID_AGENT_DOCKER_NETWORK_DEFAULT", "Network of docker and bubblewrap tasks that do not say."),
    ] = "none"
    docker_timeout_ms: Annotated[
        int, Setting("VESPID_AGENT_DOCKER_TIMEOUT_MS", "Time limit of a sandboxed task.", 1_000, 24 * 3600 * 1000)
    ] = 30_000
    docker_memory_mb: Annotated[
        int, Setting("VESPID_AGENT_DOCKER_MEMORY_MB", "Memory limit of a sandboxed task.", 16, 1_048_576)
    ] = 256
    docker_cpus: Annotated[float, Setting("VESPID_AGENT_DOCKER_CPUS", "CPU limit of a sandboxed task.", 0.05, 1024)] = (
        1.0
    )
    docker_pids: Annotated[
        int, Setting("VESPID_AGENT_DOCKER_PIDS", "Process limit of a sandboxed task.", 8, 1_000_000)
    ] = 256
    docker_runtime: Annotated[
        str,
        Setting("VESPID_AGENT_DOCKER_RUNTIME", "OCI runtime for docker tasks (`runsc`); empty: the engine's."),
    ] = ""
    docker_prepared: Annotated[
        int, Setting("VESPID_AGENT_DOCKER_PREPARED", "Containers kept ready, so that a task starts at once.", 0, 50)
    ] = 2
    docker_output_max_chars: Annotated[
        int,
        Setting("VESPID_AGENT_DOCKER_OUTPUT_MAX_CHARS", "As HOST_OUTPUT_MAX_CHARS, sandboxed.", 1_000, 10_000_000),
    ] = 65_536
    egress_allow: Annotated[
        tuple[str, ...],
        Setting("VESPID_AGENT_EGRESS_ALLOW", "If set, the only hosts and networks that connectors may reach."),
    ] = ()
    managed_tools: Annotated[
        tuple[str, ...],
        Setting(
            "VESPID_AGENT_MANAGED_TOOLS",
            "Tools that models may use on a managed agent beside `memory.*`: ids and globs. No effect on others.",
        ),
    ] = ()
    memory_root: Annotated[
        Path | None,
        Setting("SESSION_MEMORY_ROOT", "Where sessions' memory is kept. Unset: `memory` beside the config."),
    ] = None
    skills_dir: Annotated[Path, Setting("VESPID_AGENT_SKILLS_DIR", "Folder of local skills (`docs/skills.md`).")] = (
        Path("~/.vespid/skills")
    )
    claude_code_path: Annotated[
        Path | None, Setting("VESPID_CLAUDE_CODE_PATH", "The Claude Code executable, when it is not in PATH.")
    ] = None
    codex_path: Annotated[
        Path | None, Setting("VESPID_CODEX_PATH", "The Codex executable, when it is not in PATH.")
    ] = None
    mcp_config: Annotated[
        Path | None, Setting("VESPID_AGENT_MCP_CONFIG", "JSON file that names MCP servers (`docs/mcp.md`).")
    ] = None
    openai_api_key: Annotated[str, Setting("OPENAI_API_KEY", "The agent's own key for `openai`.", secret=True)] = ""
    openai_base_url: Annotated[
        str, Setting("OPENAI_BASE_URL", "Where `openai` is called, instead of its own address.")
    ] = ""
    anthropic_api_key: Annotated[
        str, Setting("ANTHROPIC_API_KEY", "The agent's own key for `anthropic`.", secret=True)
    ] = ""
    anthropic_base_url: Annotated[
        str, Setting("ANTHROPIC_BASE_URL", "Where `anthropic` is called, instead of its own address.")
    ] = ""
    gemini_api_key: Annotated[str, Setting("GEMINI_API_KEY", "The agent's own key for `gemini`.", secret=True)] = ""
    gemini_base_url: Annotated[
        str, Setting("GEMINI_BASE_URL", "Where `gemini` is called, instead of its own address.")
    ] = ""
    openrouter_api_key: Annotated[
        str, Setting("OPENROUTER_API_KEY", "The agent's own key for `openrouter`.", secret=True)
    ] = ""
    openrouter_base_url: Annotated[
        str, Setting("OPENROUTER_BASE_URL", "Where `openrouter` is called, instead of its own address.")
    ] = ""
    openai_compatible_api_key: Annotated[
        str, Setting("OPENAI_COMPATIBLE_API_KEY", "The agent's own key for `openai-compatible`.", secret=True)
    ] = ""
    openai_compatible_base_url: Annotated[
        str,
        Setting("OPENAI_COMPATIBLE_BASE_URL", "Where `openai-compatible` is called: vLLM, Ollama and the like."),
    ] = ""
    managed_model_keys: Annotated[
        Literal["off", "on"],
        Setting(
            "VESPID_AGENT_MANAGED_MODEL_KEYS",
            "`on`: a managed agent answers every organization with its own model keys. No effect on others.",
        ),
    ] = "off"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> AgentSettings:
        """Raises SettingInvalid, naming the variable. An empty variable counts as not set."""
        home = Path(env.get("HOME") or Path.home())
        values: dict[str, object] = {}
        for field, kind, setting in declared():
            text = env.get(setting.variable, "").strip()
            if text:
                values[field] = _parse(kind, text, setting)
        loaded = cls(**values)  # type: ignore[arg-type]
        paths = {
            field: _expand(value, home)
            for field, _, _ in declared()
            if isinstance(value := getattr(loaded, field), Path)
        }
        return msgspec.structs.replace(loaded, **paths)

    def __repr__(self) -> str:
        """Without the secrets."""
        shown = (f"{field}={'…' if setting.secret else repr(getattr(self, field))}" for field, _, setting in declared())
        return f"{type(self).__name__}({', '.join(shown)})"


def declared() -> list[tuple[str, object, Setting]]:
    """(field, type, setting) of every field, in the order of declaration."""
    hints = typing.get_type_hints(AgentSettings, include_extras=True)
    rows = []
    for field in AgentSettings.__struct_fields__:
        kind, setting = typing.get_args(hints[field])[:2]
        rows.append((field, kind, setting))
    return rows


def split_tags(text: str) -> tuple[str, ...]:
    """`"east, group:alpha"` → `("east", "group:alpha")`, each once, in order."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def documentation() -> str:
    """The table of `docs/agent.md`."""
    defaults = AgentSettings()
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for field, _, setting in declared():
        value = getattr(defaults, field)
        shown = "" if value in (None, (), "") else f"`{value}`"
        clamp = "" if setting.low is None else f" ({setting.low:g}..{setting.high:g})"
        lines.append(f"| `{setting.variable}` | {shown} | {setting.doc}{clamp} |")
    return "\n".join(lines)


def _parse(kind: object, text: str, setting: Setting) -> object:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if text.lower() not in choices:
            raise SettingInvalid(f"{setting.variable} is {text!r}; it must be one of {', '.join(choices)}")
        return text.lower()
    if kind is int or kind is float:
        try:
            number = float(text)
            if number != number:
                raise ValueError
        except ValueError:
            raise SettingInvalid(f"{setting.variable} is {text!r}; it must be a number") from None
        low, high = setting.low, setting.high
        if low is not None and high is not None:
            number = min(max(number, low), high)
        return int(number) if kind is int else number
    if kind == tuple[str, ...]:
        return split_tags(text)
    if kind is Path:
        return Path(text)
    return text


def _expand(path: Path, home: Path) -> Path:
    parts = path.parts
    return Path(home, *parts[1:]) if parts[:1] == ("~",) else Path(os.path.abspath(path))
