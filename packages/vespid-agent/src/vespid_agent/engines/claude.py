"""`claude.agent-sdk.v1`: Claude Code, by `claude -p --output-format stream-json`.

It runs *restricted*: no tool of its own that runs a command, none that leaves the working directory, none of the
settings, hooks and plugins that lie on the machine or in the folder. The one thing to know: what it may use is named
tool by tool, and whatever is not named is refused without asking anybody.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vespid_agent.engines.bridge import SERVER
from vespid_agent.engines.calls import Calls
from vespid_agent.engines.environment import passed
from vespid_agent.engines.folders import write_private
from vespid_agent.engines.turn import Ask, Dialect, Listener, Login, Says
from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineError
from vespid_runtime.engines.names import CLAUDE
from vespid_runtime.models.types import Usage

# Its own tools, where the model may run commands: they see and change the files of the working directory.
FILE_TOOLS = ("Read", "Edit", "Write", "Glob", "Grep")
_OUR_TOOLS = f"mcp__{SERVER}__"

# Who it is and whom it asks.
_ITS_OWN = (
    *("ANTHROPIC_*", "API_TIMEOUT_MS", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN"),
    *("CLAUDE_CODE_USE_*", "CLAUDE_CODE_SKIP_*_AUTH", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "CLAUDE_CODE_MAX_RETRIES"),
)
# Where it goes by a cloud's account.
_OF_CLOUDS = {
    "CLAUDE_CODE_USE_BEDROCK": ("AWS_*",),
    "CLAUDE_CODE_USE_VERTEX": ("CLOUD_ML_REGION", "VERTEX_*", "GOOGLE_*", "GCLOUD_PROJECT"),
    "CLAUDE_CODE_USE_FOUNDRY": ("AZURE_*",),
}
# Where a turn brings a key of its own, the machine's are nobody's business.
_CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", *_OF_CLOUDS)
_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    # `@file` in a message would be read without any tool being used.
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
}
_STOPS = {"max_tokens": "length", "refusal": "refusal"}


class ClaudeCode(Dialect):
    id = CLAUDE
    provider = "anthropic"
    help_arguments = ("--help",)
    needed = ("--restricted", "--permission-prompts", "--tools", "--strict-mcp-config", "--include-partial-messages")

    def start(self, ask: Ask, environment: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
        servers = {SERVER: {"type": "http", "url": ask.url, "headers": {"Authorization": f"Bearer {ask.token}"}}}
        write_private(ask.folder / "mcp.json", msgspec.json.encode({"mcpServers": servers}).decode())
        write_private(ask.folder / "system.txt", ask.system)
        own = FILE_TOOLS if ask.may_work else ()
        arguments = [
            *("-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"),
            *("--restricted", "--permission-prompts", "none", "--disable-slash-commands"),
            *("--tools", ",".join(own), "--allowedTools", ",".join((f"mcp__{SERVER}", *own))),
            *("--strict-mcp-config", "--mcp-config", str(ask.folder / "mcp.json")),
            *("--max-turns", str(ask.task.limits.max_turns)),
        ]
        if ask.system:
            arguments += ["--append-system-prompt-file", str(ask.folder / "system.txt")]
            arguments += ["--system-prompt-snapshot", "off"]
        if ask.model is not None:
            arguments += ["--model", ask.model]
        if not ask.keeps:
            arguments.append("--no-session-persistence")
        if ask.conversation is not None:
            arguments += ["--resume", ask.conversation.id]
        return tuple(arguments), _environment(ask, environment)

    def login(self, environment: Mapping[str, str]) -> Login:
        return Login(
            arguments=("auth", "status"),
            env=passed(environment, (*_ITS_OWN, *_clouds(environment))) | _QUIET,
            known=any(environment.get(switch) for switch in _OF_CLOUDS),
            advice="not logged in: run `claude auth login` as the agent's user, or set ANTHROPIC_API_KEY for the agent",
        )

    def listener(self, calls: Calls, say: Says) -> _Claude:
        return _Claude(calls, say)


def _clouds(environment: Mapping[str, str]) -> list[str]:
    return [name for switch, names in _OF_CLOUDS.items() if environment.get(switch) for name in names]


def _environment(ask: Ask, environment: Mapping[str, str]) -> dict[str, str]:
    env = passed(environment, (*_ITS_OWN, *_clouds(environment)))
    if ask.api_key is not None:
        env = {name: value for name, value in env.items() if name not in _CREDENTIALS}
        env["ANTHROPIC_API_KEY"] = ask.api_key
    folder = str(ask.folder)
    return env | _QUIET | {"MCP_TOOL_TIMEOUT": str(ask.timeout_ms), "TMPDIR": folder, "CLAUDE_CODE_TMPDIR": folder}


# --- what it prints --------------------------------------------------------------------------------------------------


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Block(msgspec.Struct):
    type: str = ""
    # Of a call.
    id: str = ""
    name: str = ""
    input: dict[str, object] = msgspec.field(default_factory=dict)
    # Of its result.
    tool_use_id: str = ""
    content: object = None
    is_error: bool = False


class _Message(msgspec.Struct):
    content: list[_Block] | str = ""


class _Tokens(msgspec.Struct):
    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0


class _Line(msgspec.Struct):
    type: str
    subtype: str = ""
    session_id: str | None = None
    # Of another agent that it started.
    parent_tool_use_id: str | None = None
    # system init
    model: str | None = None
    # stream_event
    event: _Event | None = None
    # assistant, user
    message: _Message | None = None
    # result
    result: str | None = None
    is_error: bool = False
    errors: list[str] = msgspec.field(default_factory=list)
    stop_reason: str | None = None
    usage: _Tokens | None = None
    total_cost_usd: float | None = None


class _Claude(Listener[_Line]):
    def __init__(self, calls: Calls, say: Says) -> None:
        super().__init__(_Line, calls, say)

    def _take(self, line: _Line) -> None:
        if line.session_id is not None:
            self.heard.conversation = line.session_id
        if line.type == "system" and line.subtype == "init":
            self.heard.has_begun = True
            self.heard.model = line.model
        elif line.type == "result":
            self._ended(line)
        elif line.parent_tool_use_id is not None:
            return
        elif line.type == "stream_event" and line.event is not None:
            if line.event.type == "content_block_delta" and line.event.delta.type == "text_delta":
                self._say(line.event.delta.text)
        elif line.type in ("assistant", "user") and line.message is not None:
            for block in line.message.content:
                if isinstance(block, _Block):
                    self._block(block)

    def _block(self, block: _Block) -> None:
        if block.type == "tool_use" and not block.name.startswith(_OUR_TOOLS):
            self._calls.began(block.id, block.name, block.input)
        elif block.type == "tool_result":
            self._calls.ended(block.tool_use_id, _text(block.content), is_error=block.is_error)

    def _ended(self, line: _Line) -> None:
        heard = self.heard
        if line.usage is not None:
            tokens = line.usage
            given = tokens.input_tokens + tokens.cache_creation_input_tokens + tokens.cache_read_input_tokens
            made = tokens.output_tokens
            heard.usage = Usage(input_tokens=given, output_tokens=made, total_tokens=given + made)
        heard.cost_usd = line.total_cost_usd
        if line.is_error or line.subtype != "success":
            code = Code.AGENT_MAX_TURNS if line.subtype == "error_max_turns" else Code.EXECUTOR_CLI_FAILED
            heard.failure = EngineError(code, "; ".join(line.errors) or line.result or line.subtype)
        else:
            heard.answer = line.result or None
            heard.stop_reason = _STOPS.get(line.stop_reason or "", "stop")


def _text(content: object) -> str:
    """Of a result: text, or parts of which some are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        return "\n".join(part if isinstance(part, str) else "[not text]" for part in parts)
    return "" if content is None else msgspec.json.encode(content).decode()
