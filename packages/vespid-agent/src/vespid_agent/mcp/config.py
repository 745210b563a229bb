"""The file that VESPID_AGENT_MCP_CONFIG names, in the form that people have for their coding assistants.

    {"mcpServers": {"tickets": {"command": "npx", "args": ["…"], "env": {"TOKEN": "${TICKETS_TOKEN}"}},
                    "wiki": {"url": "https://wiki.example/mcp", "headers": {"Authorization": "Bearer ${WIKI}"}}}}

The one thing to know: each server is read for itself. One that is wrong is told of; the others work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from vespid_agent.work.passthrough import looks_secret

FILE_MAX_BYTES = 1024 * 1024
TIMEOUT_MS = 60_000
SERVERS_MAX = 50

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class BadServer(Exception):
    """An entry that cannot be used. The message says what to mend."""


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str = ""
    headers: dict[str, str] = {}
    type: str | None = None
    timeout_ms: int = TIMEOUT_MS
    allow: tuple[str, ...] = ("*",)
    disabled: bool = False


class _File(msgspec.Struct, frozen=True, rename="camel"):
    mcp_servers: dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server, with every variable filled in."""

    name: str
    # A program of this machine, spoken to over its standard streams; empty: reached at `url`.
    command: str = ""
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path = Path("/")
    url: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_ms: int = TIMEOUT_MS
    # Names and globs of the server's own names.
    allow: tuple[str, ...] = ("*",)
    # What must be seen nowhere: values of `env` and `headers`, and what was filled in from a variable that sounds so.
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def allows(self, tool: str) -> bool:
        return any(fnmatchcase(tool, pattern) for pattern in self.allow)


@dataclass(frozen=True, slots=True)
class McpConfig:
    servers: tuple[ServerConfig, ...] = ()
    # By server, why it is not among them; of the file as a whole under "".
    problems: Mapping[str, str] = field(default_factory=dict)


def read_config(path: Path, environment: Mapping[str, str]) -> McpConfig:
    """Raises nothing: what is wrong is in the answer."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
        if len(content) > FILE_MAX_BYTES:
            return McpConfig(problems={"": f"{path} has more than {FILE_MAX_BYTES} bytes"})
        entries = msgspec.json.decode(content, type=_File).mcp_servers
    except OSError as error:
        return McpConfig(problems={"": f"{path} cannot be read: {error.strerror}"})
    except (msgspec.DecodeError, RecursionError) as error:
        return McpConfig(problems={"": f"{path}: {error}"})
    if len(entries) > SERVERS_MAX:
        return McpConfig(problems={"": f"{path} names more than {SERVERS_MAX} servers"})
    servers: list[ServerConfig] = []
    problems: dict[str, str] = {}
    for name, raw in entries.items():
        try:
            server = _server(name, raw, path.parent, environment)
        except BadServer as bad:
            problems[name[:64]] = str(bad)
        else:
            if server is not None:
                servers.append(server)
    return McpConfig(tuple(servers), problems)


def _server(name: str, raw: msgspec.Raw, folder: Path, environment: Mapping[str, str]) -> ServerConfig | None:
    """None where it is disabled. Raises BadServer."""
    if _NAME.fullmatch(name) is None:
        raise BadServer(f"a server's name must match {_NAME.pattern}")
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except msgspec.DecodeError as error:
        raise BadServer(str(error)) from None
    if entry.disabled:
        return None
    if bool(entry.command) == bool(entry.url):
        raise BadServer("it has to have either a command or a url")
    if entry.type not in (None, "stdio" if entry.command else "http", "" if entry.command else "streamable-http"):
        raise BadServer(f"type {entry.type[:32]!r} is not spoken here: a command is stdio, a url is http")
    if entry.timeout_ms <= 0:
        raise BadServer("timeoutMs has to be above 0")
    fill = _Filling(environment)
    env = {key: fill(value) for key, value in entry.env.items()}
    headers = {key: fill(value) for key, value in entry.headers.items()}
    server = ServerConfig(
        name=name,
        command=fill(entry.command),
        args=tuple(fill(argument) for argument in entry.args),
        env=env,
        cwd=folder / Path(fill(entry.cwd)).expanduser() if entry.cwd else folder,
        url=_checked_url(fill(entry.url)) if entry.url else "",
        headers=headers,
        timeout_ms=entry.timeout_ms,
        allow=entry.allow,
        secrets=tuple(dict.fromkeys([*env.values(), *map(_credentials, headers.values()), *fill.secrets])),
    )
    _check_plain(server)
    return server


class _Filling:
    """Fills `${NAME}` and `${NAME:-default}` from the agent's environment, and knows what it filled in."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.secrets: list[str] = []

    def __call__(self, text: str) -> str:
        """Raises BadServer for a variable that is not set."""

        def value(match: re.Match[str]) -> str:
            name, default = match.groups()
            found = self._environment.get(name, default)
            if found is None:
                raise BadServer(f"the variable {name} is not set for this agent")
            if looks_secret(name):
                self.secrets.append(found)
            return found

        return _VARIABLE.sub(value, text)


def _credentials(header: str) -> str:
    """`Bearer x` → `x`: the value is a secret without its scheme too."""
    scheme, _, rest = header.partition(" ")
    return rest if rest and scheme.lower() in ("bearer", "basic", "token") else header


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise BadServer("its url is not one of http or https")
    return url


def _check_plain(server: ServerConfig) -> None:
    """What no process and no request can be given."""
    for name, value in server.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise BadServer(f"env: {name[:64]!r} or its value cannot be in an environment")
    if any("\0" in text for text in (server.command, *server.args, str(server.cwd))):
        raise BadServer("command and args cannot hold a NUL")
    for name, value in server.headers.items():
        if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is None or not re.fullmatch(r"[\t\x20-\x7e]*", value):
            raise BadServer(f"headers: {name[:64]!r} or its value cannot be in a header")
