"""From a node that starts to the row of its execution: templates filled, secrets named, limits settled."""

from __future__ import annotations

import msgspec

from vespid.domain import engine as engines
from vespid.domain.node_config import CONFIGS, Config
from vespid.domain.node_reader import HTTP_ACTION, HTTP_CONNECTOR, placed
from vespid.domain.path import MISSING
from vespid.domain.plan import PlanNode
from vespid.domain.policy import OrgSettings, effective_tools
from vespid.domain.run_event import NewExecution, RunContext
from vespid.domain.template import FilledTooLarge, Scope, TemplateValueMissing, disarm
from vespid_protocol.codes import Code

_INVALID = {
    "agent.execute": Code.INVALID_EXECUTE_PAYLOAD.value,
    "agent.run": Code.INVALID_EXECUTE_PAYLOAD.value,
    "connector.action": Code.INVALID_ACTION_INPUT.value,
    "http.request": Code.INVALID_ACTION_INPUT.value,
}


class Unbuildable(Exception):
    """The node cannot start: `code` of the contract and a message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def build(node: PlanNode, attempt: int, context: RunContext, scope: Scope) -> NewExecution:
    """The execution of a node's attempt. Raises Unbuildable, and OutputsMissing through `scope`."""
    config = filled_config(node, scope)
    auth_secret = node.auth_secret
    if node.type == "agent.run":
        config, auth_secret = _with_default_engine(config, auth_secret, context.policy.settings)
    elif node.type == "agent.execute":
        _check_shell_secrets(node, context.policy.settings)
        config = _with_text(config, "task", "env")
    if not node.signature:
        node = _with_filled_selector(node, config)
    requirement, placement = node.requirement, node.placement
    assert requirement is not None, "nodes with I/O have a requirement"
    assert placement is not None, "nodes with I/O have a placement"
    secrets = node.named_secrets
    if auth_secret is not None and auth_secret not in secrets:
        secrets = (auth_secret, *secrets)
    return NewExecution(
        request_id=f"{context.run_id}:{node.id}:{attempt}",
        node_id=node.id,
        node_type=node.type,
        attempt=attempt,
        kind=node.type,
        placement=placement,
        payload=_payload(node, config, attempt, context, scope),
        secret_refs=secrets,
        auth_secret=auth_secret,
        selector=node.selector,
        pool=node.selector.pool or "byon",
        requirement=requirement,
        signature=node.signature,
        schedule=node.schedule,
        timeout_ms=node.timeout_ms or context.policy.node_timeout_ms,
        on_lost=node.on_lost,
    )


def filled_config(node: PlanNode, scope: Scope) -> dict[str, object]:
    """The node's config with its templates filled, still of the right shape. Raises Unbuildable."""
    try:
        config = node.config.fill(scope)
        if not node.config.is_static:
            msgspec.convert(config, CONFIGS[node.type])
    except TemplateValueMissing as error:
        raise Unbuildable(Code.TEMPLATE_VALUE_MISSING, str(error)) from error
    except FilledTooLarge as error:
        raise Unbuildable(_INVALID[node.type], str(error)) from error
    except msgspec.ValidationError as error:
        raise Unbuildable(_INVALID[node.type], f"after filling the templates: {error}") from error
    assert isinstance(config, dict), "configs are objects"
    return config


# --- payloads, protocol.md §1.4 --------------------------------------------------------------------------------------


def _payload(
    node: PlanNode, config: dict[str, object], attempt: int, context: RunContext, scope: Scope
) -> dict[str, object]:
    if node.type == "connector.action":
        return _action(str(config["connectorId"]), str(config["actionId"]), config.get("input"), context)
    if node.type == "http.request":
        config = _with_text(config, "headers")
        request = {key: config[key] for key in ("method", "url", "headers", "body", "timeoutMs") if key in config}
        return _action(HTTP_CONNECTOR, HTTP_ACTION, request, context)
    payload: dict[str, object] = {
        "nodeId": node.id,
        "node": {"id": node.id, "type": node.type, "config": config},
        "runId": context.run_id,
        "workflowId": context.workflow_id,
        "attemptCount": attempt,
    }
    if node.type == "agent.execute" and node.named_secrets:
        # The agent asks too whether scripts may have secrets, and believes no payload that does not say so.
        payload |= _tool_settings(context.policy.settings)
    if node.type == "agent.run":
        payload |= _agent_run(node, config, context, scope)
    return payload


def _action(connector_id: str, action_id: str, given: object, context: RunContext) -> dict[str, object]:
    payload: dict[str, object] = {"connectorId": connector_id, "actionId": action_id, "input": given or {}}
    if connector_id == "github" and context.policy.github_api_base_url is not None:
        payload["env"] = {"githubApiBaseUrl": context.policy.github_api_base_url}
    return payload


def _agent_run(node: PlanNode, config: dict[str, object], context: RunContext, scope: Scope) -> dict[str, object]:
    settings = context.policy.settings
    tools = config.get("tools")
    allow = tools.get("allow") if isinstance(tools, dict) else None
    allowed = effective_tools(allow if isinstance(allow, list) else (), settings)
    extra: dict[str, object] = {
        "runInput": _harmless(scope.input()),
        "effectiveToolsAllow": allowed,
        **_tool_settings(settings),
    }
    if context.family_id and any(tool.startswith("memory.") for tool in allowed):
        extra["familyId"] = context.family_id
    if node.references:
        # Only what the prompt names: the outputs of all other nodes are none of its business.
        outputs = ((node_id, scope.output(node_id)) for node_id in sorted(node.references))
        extra["steps"] = {
            node_id: {"output": _harmless(output)} for node_id, output in outputs if output is not MISSING
        }
    if context.policy.github_api_base_url is not None:
        extra["env"] = {"githubApiBaseUrl": context.policy.github_api_base_url}
    return extra


def _tool_settings(settings: OrgSettings) -> dict[str, object]:
    return {"organizationSettings": {"tools": msgspec.to_builtins(settings.tools)}}


def _harmless(value: object) -> object:
    """A value as it may stand in a payload, where the agent fills secret templates. Raises Unbuildable."""
    try:
        return disarm(value)
    except FilledTooLarge as error:
        raise Unbuildable(Code.INVALID_EXECUTE_PAYLOAD, str(error)) from error


def _with_text(config: dict[str, object], *path: str) -> dict[str, object]:
    """The config with the scalars of one object in it (environment, headers) as text, which is what they become."""
    name, *rest = path
    inner = config.get(name)
    if not isinstance(inner, dict):
        return config
    if rest:
        return {**config, name: _with_text(inner, *rest)}
    if all(isinstance(value, str) for value in inner.values()):
        return config
    return {**config, name: {key: _as_text(value) for key, value in inner.items()}}


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# --- what depends on the organization --------------------------------------------------------------------------------


def _with_default_engine(
    config: dict[str, object], auth_secret: str | None, settings: OrgSettings
) -> tuple[dict[str, object], str | None]:
    """An agent.run that names no engine uses the organization's primary model through our own loop."""
    if isinstance(config.get("engine"), dict):
        return config, auth_secret
    primary = settings.llm.defaults.primary
    named = {"provider": primary.provider, "model": primary.model}
    chosen: dict[str, object] = {"id": engines.LOOP}
    chosen.update((key, value) for key, value in named.items() if value is not None)
    if primary.secret_id is not None:
        chosen["auth"] = {"secretId": primary.secret_id}
    return {**config, "engine": chosen}, primary.secret_id


def _check_shell_secrets(node: PlanNode, settings: OrgSettings) -> None:
    if node.named_secrets and not settings.tools.shell_secrets_enabled:
        raise Unbuildable(
            Code.SECRET_NOT_ALLOWED_FOR_SHELL,
            "the organization's settings do not allow secrets in shell tasks (tools.shellSecretsEnabled)",
        )


def _with_filled_selector(node: PlanNode, config: dict[str, object]) -> PlanNode:
    """The node with the selector that its templates gave."""
    parsed: Config = msgspec.convert(config, CONFIGS[node.type])
    assert node.requirement is not None, "nodes with I/O have a requirement"
    assert node.placement is not None, "nodes with I/O have a placement"
    filled = placed(node, node.requirement, getattr(parsed, "execution", None), node.placement, node.auth_secret)
    # A value may itself look like a template; it is only text, and the signature is that of the text.
    return msgspec.structs.replace(filled, signature=filled.requirement.signature if filled.requirement else "")
