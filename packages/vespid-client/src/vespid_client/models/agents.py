"""Agents: the machines of an organization, and what each can do."""

import msgspec

from vespid_client.models.model import Model


class AgentTool(Model, frozen=True, kw_only=True):
    """A tool that the machine offers to models."""

    id: str
    description: str | None = None


class AgentToolProblem(Model, frozen=True, kw_only=True):
    """A tool that it would offer, and why it cannot."""

    id: str
    problem: str


class EngineState(Model, frozen=True, kw_only=True):
    """An engine on that machine."""

    id: str
    available: bool
    version: str | None = None
    logged_in: bool | None = None
    problem: str | None = None
    path: str | None = None


class Agent(Model, frozen=True, kw_only=True):
    """One machine. A list that is null was not told: then it takes all."""

    id: str
    name: str
    status: str
    cordoned: bool
    last_seen_at: str | None
    created_at: str
    revoked_at: str | None
    agent_version: str | None
    tags: list[str]
    reported_tags: list[str]
    kinds: list[str] | None
    connectors: list[str] | None
    engines: list[str] | None
    backends: list[str] | None
    tools: list[AgentTool] | None
    tool_problems: list[AgentToolProblem] | None
    engine_states: list[EngineState] | None
    max_in_flight: int
    in_flight: int


class TaggedAgent(Model, frozen=True, kw_only=True):
    """The tags that now count."""

    id: str
    tags: list[str]


class PairingToken(Model, frozen=True, kw_only=True):
    """Pairs one agent; 15 minutes, once."""

    # What the token is asked after by.
    id: str | None = None
    token: str
    expires_at: str


class PairingTokenState(Model, frozen=True, kw_only=True):
    """A pairing token without its value; once it was used, the agent that it became."""

    id: str
    expires_at: str
    used_at: str | None
    agent_id: str | None


class AgentToken(Model, frozen=True, kw_only=True):
    """A new token of an agent; the old one works for ten minutes."""

    agent_token: str
    executor_token: str


class Artifact(Model, frozen=True, kw_only=True):
    """A download for one platform."""

    platform_id: str
    os: str
    arch: str
    file_name: str
    archive_type: str
    download_url: str
    # What `commands` are typed into: `sh` or `powershell`.
    shell: str | None = None
    # Download, unpack and connect; `<token>` is where the pairing token belongs.
    commands: list[str] = msgspec.field(default_factory=list)


class Installer(Model, frozen=True, kw_only=True):
    """Where the agent is downloaded."""

    provider: str
    repository: str
    channel: str
    docs_url: str
    artifacts: list[Artifact]
    # None: the installation serves files without.
    checksums_url: str | None
    # Where the agents of this installation connect.
    api_base: str | None = None
