"""`codex.sdk.v1`: OpenAI's Codex, by `codex exec --json`.

Its home is a folder of ours, with the user's login linked into it and of the user's settings only those that say which
model answers and how it is reached; so no MCP server, hook, rule or plugin of the user's takes part in a turn. The one
thing to know: all that runs commands or leaves the machine is switched off feature by feature, and a sandbox of
Codex's own stands behind that: read-only, unless the model may run commands.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from vespid_agent.engines import toml
from vespid_agent.engines.bridge import SERVER, TOKEN_VARIABLE
from vespid_agent.engines.calls import Calls
from vespid_agent.engines.environment import passed
from vespid_agent.engines.folders import Folders, write_private
from vespid_agent.engines.turn import Ask, Dialect, Listener, Login, Says
from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineError
from vespid_runtime.engines.names import CODEX
from vespid_runtime.models.types import Usage

HOME_VARIABLE = "CODEX_HOME"
KEY_VARIABLE = "CODEX_API_KEY"
# Of the user's settings.
TAKEN_SETTINGS = (
    *("model", "model_provider", "model_providers", "model_reasoning_effort", "model_reasoning_summary"),
    *("model_verbosity", "model_context_window", "model_auto_compact_token_limit", "service_tier"),
    *("openai_base_url", "chatgpt_base_url", "forced_login_method", "preferred_auth_method"),
)
# What it can do beside asking its model and calling our tools.
FEATURES_OFF = (
    *("shell_tool", "unified_exec", "unified_exec_tty", "shell_snapshot", "code_mode_host", "view_image"),
    *("apps", "plugins", "remote_plugin", "plugin_sharing", "hooks", "skill_mcp_dependency_install", "tool_suggest"),
    *("browser_use", "browser_use_external", "computer_use", "in_app_browser", "in_app_local_automation"),
    *("multi_agent", "goals", "memories", "image_generation", "sleep_tool", "daemon_auto_start"),
)
_ITS_OWN = ("OPENAI_*", KEY_VARIABLE, "CODEX_ACCESS_TOKEN", "CODEX_CA_CERTIFICATE")
_AUTH = "auth.json"


class Codex(Dialect):
    id = CODEX
    provider = "openai"
    help_arguments = ("exec", "--help")
    needed = ("--json", "--profile", "--ignore-rules", "--ephemeral", "--skip-git-repo-check")
    counts_all = True

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def start(self, ask: Ask, environment: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
        home, settings = self.home(environment)
        write_private(self._profile(ask), toml.dumps(_profile(ask)))
        arguments = ["exec", "--json", "--skip-git-repo-check", "--ignore-rules", "--profile", ask.folder.name]
        if not ask.keeps:
            arguments.append("--ephemeral")
        if ask.conversation is not None:
            arguments += ["resume", ask.conversation.id]
        arguments.append("-")
        keys = key_variables(settings)
        env = passed(environment, (*_ITS_OWN, *keys))
        if ask.api_key is not None:
            env |= dict.fromkeys((KEY_VARIABLE, *keys), ask.api_key)
        env |= {HOME_VARIABLE: str(home), TOKEN_VARIABLE: ask.token, "TMPDIR": str(ask.folder)}
        return tuple(arguments), env

    def clean(self, ask: Ask) -> None:
        self._profile(ask).unlink(missing_ok=True)

    def home(self, environment: Mapping[str, str]) -> tuple[Path, dict[str, object]]:
        """Where it lives, and the settings there: made anew from the user's own. Raises EngineError."""
        theirs = user_home(environment)
        ours = self._folders.codex_home()
        settings = _settings(theirs / "config.toml")
        text = toml.dumps(settings)
        if not (ours / "config.toml").is_file() or (ours / "config.toml").read_text("utf-8") != text:
            write_private(ours / "config.toml", text)
        _link(ours / _AUTH, theirs / _AUTH)
        return ours, settings

    def login(self, environment: Mapping[str, str]) -> Login:
        home, settings = self.home(environment)
        keys = key_variables(settings)
        named = " or ".join(keys) or KEY_VARIABLE
        return Login(
            arguments=("login", "status"),
            env=passed(environment, _ITS_OWN) | {HOME_VARIABLE: str(home)},
            known=any(environment.get(name) for name in (KEY_VARIABLE, *keys)),
            advice=f"not logged in: run `codex login` as the agent's user, or set {named} for the agent",
        )

    def listener(self, calls: Calls, say: Says) -> _Codex:
        return _Codex(calls, say)

    def _profile(self, ask: Ask) -> Path:
        return self._folders.codex_home() / f"{ask.folder.name}.config.toml"


def _link(link: Path, target: Path) -> None:
    """The user's login: a link, so that what Codex renews there is the user's again."""
    is_there = target.is_file()
    if is_there and link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    if is_there:
        with contextlib.suppress(FileExistsError):  # another turn was quicker
            link.symlink_to(target)


def user_home(environment: Mapping[str, str]) -> Path:
    named = environment.get(HOME_VARIABLE)
    return Path(named) if named else Path(environment.get("HOME") or Path.home()) / ".codex"


def key_variables(settings: Mapping[str, object]) -> tuple[str, ...]:
    """Where the provider that the settings choose looks for its key."""
    providers = settings.get("model_providers")
    chosen = providers.get(settings.get("model_provider")) if isinstance(providers, dict) else None
    names: list[object] = []
    if isinstance(chosen, dict):
        names.append(chosen.get("env_key"))
        headers = chosen.get("env_http_headers")
        names += headers.values() if isinstance(headers, dict) else ()
    return tuple(name for name in names if isinstance(name, str))


def _settings(path: Path) -> dict[str, object]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise EngineError(Code.EXECUTOR_CLI_FAILED, f"{path} cannot be read: {type(error).__name__}") from None
    return {name: found[name] for name in TAKEN_SETTINGS if name in found}


def _profile(ask: Ask) -> dict[str, object]:
    """What holds for this turn, above the settings."""
    server = {
        "url": ask.url,
        "bearer_token_env_var": TOKEN_VARIABLE,
        "required": True,
        # What may be called is decided by us, call by call.
        "default_tools_approval_mode": "approve",
        "tool_timeout_sec": ask.timeout_ms / 1000,
    }
    return {
        "model": ask.model,
        "developer_instructions": ask.system or None,
        "approval_policy": "never",
        "sandbox_mode": "workspace-write" if ask.may_work else "read-only",
        "sandbox_workspace_write": {"network_access": False, "exclude_slash_tmp": True},
        "shell_environment_policy": {"inherit": "core"},
        "web_search": "disabled",
        "features": dict.fromkeys(FEATURES_OFF, False),
        "skills": {"bundled": {"enabled": False}},
        "analytics": {"enabled": False},
        "check_for_update_on_startup": False,
        "mcp_servers": {SERVER: server},
    }


# --- what it prints --------------------------------------------------------------------------------------------------


class _Error(msgspec.Struct):
    message: str = ""


class _Tokens(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0


class _Item(msgspec.Struct):
    id: str = ""
    type: str = ""
    # agent_message
    text: str = ""
    # command_execution
    command: str = ""
    aggregated_output: str = ""
    exit_code: int | None = None
    # mcp_tool_call
    server: str = ""
    tool: str = ""
    arguments: object = None
    result: object = None
    # file_change, web_search
    changes: object = None
    query: str = ""
    status: str = ""


class _Line(msgspec.Struct):
    type: str
    thread_id: str | None = None
    item: _Item | None = None
    usage: _Tokens | None = None
    # turn.failed
    error: _Error | None = None
    # error: it tries again, or gives up
    message: str = ""


class _Codex(Listener[_Line]):
    def __init__(self, calls: Calls, say: Says) -> None:
        super().__init__(_Line, calls, say)
        self._complaint = ""

    @property
    def unread(self) -> str:
        return self._complaint or super().unread

    def _take(self, line: _Line) -> None:
        heard = self.heard
        if line.type == "thread.started":
            heard.conversation = line.thread_id
        elif line.type == "turn.started":
            heard.has_begun = True
        elif line.type == "turn.completed" and line.usage is not None:
            given, made = line.usage.input_tokens, line.usage.output_tokens
            heard.usage = Usage(input_tokens=given, output_tokens=made, total_tokens=given + made)
        elif line.type == "turn.failed":
            said = "" if line.error is None else line.error.message
            heard.failure = EngineError(Code.EXECUTOR_CLI_FAILED, said or self._complaint or "the turn failed")
        elif line.type == "error":
            self._complaint = line.message
        elif line.item is not None and line.type == "item.started":
            self._began(line.item)
        elif line.item is not None and line.type == "item.completed":
            self._ended(line.item)

    def _began(self, item: _Item) -> None:
        own = _own_tool(item)
        if own is not None:
            self._calls.began(item.id, *own)

    def _ended(self, item: _Item) -> None:
        if item.type == "agent_message":
            self.heard.answer = item.text or None
            self._say(item.text)
            return
        own = _own_tool(item)
        if own is not None:
            # Some are told only when they are over.
            self._calls.began(item.id, *own)
            failed = item.status in ("failed", "declined") or item.exit_code not in (None, 0)
            self._calls.ended(item.id, item.aggregated_output or item.status, is_error=failed)


def _own_tool(item: _Item) -> tuple[str, dict[str, object]] | None:
    """The name and the arguments of a tool of Codex's own; None: it is none, or one of ours."""
    if item.type == "command_execution":
        return "exec_command", {"command": item.command}
    if item.type == "file_change":
        return "apply_patch", {"changes": item.changes}
    if item.type == "web_search":
        return "web_search", {"query": item.query}
    if item.type == "mcp_tool_call" and item.server != SERVER:
        return f"mcp__{item.server}__{item.tool}", {"arguments": item.arguments}
    return None
