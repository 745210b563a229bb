"""The shapes of node configs, as `contracts/workflow.md` §1 writes them. Unknown keys are ignored and travel along."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vespid_runtime.tools.approval import ApprovalRule

Text = Annotated[str, msgspec.Meta(max_length=200_000)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
SecretId = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
TimeoutMs = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
# A JSON scalar that becomes text.
Scalar = str | int | float | bool


class Config(msgspec.Struct, rename="camel"):
    """What configs have in common: camelCase keys, nothing required unless said."""


class Auth(Config):
    """Which secret travels with the execution."""

    secret_id: SecretId


class SelectorConfig(Config):
    """Where it may run."""

    pool: Literal["byon", "managed"] | None = None
    labels: Annotated[list[Tag], msgspec.Meta(max_length=64)] | None = None
    group: Tag | None = None
    tag: Tag | None = None
    executor_id: Tag | None = None


class ScheduleConfig(Config):
    """What happens while nobody is free."""

    on_unavailable: Literal["wait", "fail"] = "wait"
    max_wait_ms: Annotated[int, msgspec.Meta(ge=0, le=7 * 86_400_000)] | None = None


class ExecutionConfig(Config):
    """Where a node runs."""

    mode: Literal["executor", "node", "cloud", "gateway"] | None = None
    selector: SelectorConfig | None = None
    schedule: ScheduleConfig | None = None


class ConnectorActionConfig(Config):
    """connector.action"""

    connector_id: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
    action_id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$", max_length=128)]
    # An object, or a template that gives one.
    input: dict[str, object] | str | None = None
    auth: Auth | None = None
    execution: ExecutionConfig | None = None


class ShellTask(Config):
    """A script to run."""

    type: Literal["shell"]
    script: Annotated[str, msgspec.Meta(min_length=1, max_length=200_000)]
    shell: Literal["sh", "bash"] | None = None
    env: dict[Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,127}$")], Scalar] | None = None


class DockerConfig(Config):
    """The image."""

    image: Name | None = None


class Sandbox(Config):
    """How a task is confined."""

    backend: Literal["docker", "host", "bubblewrap"] | None = None
    network: Literal["none", "enabled"] | None = None
    # Another spelling of network.
    network_mode: Literal["none", "enabled"] | None = None
    timeout_ms: TimeoutMs | None = None
    docker: DockerConfig | None = None
    env_passthrough_allowlist: Annotated[list[Name], msgspec.Meta(max_length=64)] | None = None
    # Whose folder /work is: the node's own, or one for all nodes of the run that say `run`, on the same agent.
    workdir: Literal["node", "run"] | None = None


class AgentExecuteConfig(Config):
    """agent.execute"""

    task: ShellTask | None = None
    sandbox: Sandbox | None = None
    execution: ExecutionConfig | None = None


class EngineConfig(Config):
    """The engine of an agent.run."""

    id: Name
    model: Name | None = None
    provider: Name | None = None
    auth: Auth | None = None


class LlmConfig(Config):
    """Another spelling of the engine `vespid.loop.v1`."""

    provider: Name
    model: Name
    auth: Auth | None = None


class Prompt(Config):
    """What the engine is told."""

    instructions: Text
    system: Text | None = None
    input_template: Text | None = None


class Tools(Config):
    """What it may use."""

    allow: Annotated[list[Name], msgspec.Meta(max_length=256)]
    # By connector: the secret that its actions are given.
    auth: dict[Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")], Auth] | None = None
    # Which of them a person has to allow call by call, by id or glob.
    approval: Annotated[dict[Name, ApprovalRule], msgspec.Meta(max_length=256)] | None = None


class Limits(Config):
    """How far it may go."""

    max_turns: Count | None = None
    max_tool_calls: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] | None = None
    timeout_ms: TimeoutMs | None = None
    max_output_chars: Count | None = None
    max_runtime_chars: Count | None = None


class Output(Config):
    """What is expected of it."""

    mode: Literal["text", "json"] = "text"
    json_schema: dict[str, object] | bool | None = None


class AgentRunConfig(Config):
    """agent.run"""

    prompt: Prompt
    tools: Tools | None = None
    engine: EngineConfig | None = None
    llm: LlmConfig | None = None
    limits: Limits | None = None
    output: Output | None = None
    execution: ExecutionConfig | None = None


class HttpRequestConfig(Config):
    """http.request"""

    method: Annotated[str, msgspec.Meta(min_length=1, max_length=32_000)]
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=32_000)]
    headers: dict[Name, Scalar] | None = None
    body: object = None
    auth: Auth | None = None
    timeout_ms: TimeoutMs | None = None


class ConditionConfig(Config):
    """condition"""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    op: Literal["eq", "neq", "contains", "exists", "gt", "gte", "lt", "lte"]
    value: object = msgspec.UNSET


class JoinConfig(Config):
    """parallel.join"""

    mode: Literal["all"] = "all"
    fail_fast: bool = True


class RetryConfig(Config):
    """`retry` of a node: maxAttempts in all, the first included."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)]
    backoff_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 1_000


class NodeShape(Config):
    """A node, its config not yet looked into."""

    type: Literal["connector.action", "agent.execute", "agent.run", "http.request", "condition", "parallel.join"]
    id: str | None = None
    config: dict[str, object] | None = None
    retry: RetryConfig | None = None
    on_lost: Literal["fail", "resend", "wait"] | None = None
    timeout_ms: TimeoutMs | None = None
    # Who has to allow it before it runs.
    approval: ApprovalRule | None = None


CONFIGS: dict[str, type[Config]] = {
    "connector.action": ConnectorActionConfig,
    "agent.execute": AgentExecuteConfig,
    "agent.run": AgentRunConfig,
    "http.request": HttpRequestConfig,
    "condition": ConditionConfig,
    "parallel.join": JoinConfig,
}
