"""Reading one node of a workflow: from JSON to a `PlanNode` that knows everything but its place in the graph."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from vespid.domain import engine as engines
from vespid.domain.condition import parse_path
from vespid.domain.issue import BAD_REQUEST, Issue
from vespid.domain.node_config import (
    CONFIGS,
    AgentExecuteConfig,
    AgentRunConfig,
    ConditionConfig,
    Config,
    ConnectorActionConfig,
    ExecutionConfig,
    HttpRequestConfig,
    JoinConfig,
    NodeShape,
)
from vespid.domain.path import PathInvalid
from vespid.domain.plan import INLINE_TYPES, ConditionRule, Placement, PlanNode, Schedule
from vespid.domain.policy import Backoff
from vespid.domain.selector import Requirement, Selector
from vespid.domain.template import Template, TemplateInvalid, compile_template, static
from vespid.domain.tool_name import NO_SUCH_TOOL, connector_of, is_tool
from vespid_runtime.loop.names import is_allowed

# (connectorId, actionId, or None for any) → None where it exists, else a message that says what does.
ConnectorCheck = Callable[[str, str | None], str | None]
# connectorId → whether its actions cannot be called without a secret.
SecretCheck = Callable[[str], bool]

Shape = TypeVar("Shape", bound=msgspec.Struct)

MAX_WAIT_MS_DEFAULT = 600_000
HTTP_CONNECTOR, HTTP_ACTION = "http", "request"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_AT = re.compile(r"^(?P<message>.*) - at (?P<key>`key` in )?`\$(?P<path>.*)`$", re.DOTALL)


class NodeReader:
    """Reads nodes and gathers what is wrong with them."""

    def __init__(self, check_connector: ConnectorCheck | None = None, needs_secret: SecretCheck | None = None) -> None:
        self.issues: list[Issue] = []
        self._check_connector = check_connector
        self._needs_secret = needs_secret

    def read(self, node_id: str, raw: object, path: str) -> PlanNode | None:
        """The node, its rank and edges still empty; None where it has issues."""
        shape = self._convert(raw, NodeShape, path)
        if shape is None:
            return None
        at = f"{path}.config"
        given = dict(shape.config or {})
        parsed = self._convert(given, CONFIGS[shape.type], at)
        if parsed is None:
            return None
        known = len(self.issues)
        config = self._template(normalise(given, parsed), at)
        node = self._node(node_id, shape, parsed, config, at)
        return node if len(self.issues) == known else None

    def report(self, path: str, message: str) -> None:
        """Notes one more issue."""
        self.issues.append(Issue(BAD_REQUEST, path, message))

    # --- one kind after the other --------------------------------------------------------------------------------

    def _node(self, node_id: str, shape: NodeShape, parsed: Config, config: Template, at: str) -> PlanNode:
        references = frozenset(ref.node_id for ref in config.references if ref.node_id is not None)
        node = PlanNode(
            id=node_id,
            type=shape.type,
            rank=0,
            config=config,
            references=references,
            retry=Backoff(shape.retry.max_attempts, shape.retry.backoff_ms) if shape.retry else None,
            on_lost=shape.on_lost or "fail",
            timeout_ms=shape.timeout_ms,
            approval=shape.approval,
            named_secrets=config.secrets,
        )
        if shape.approval is not None and shape.type in INLINE_TYPES:
            self.report(
                f"{at.removesuffix('.config')}.approval",
                f"a {shape.type} does nothing that a person could allow; put `approval` on the node behind it",
            )
        if isinstance(parsed, ConditionConfig):
            return self._condition(node, parsed, at)
        if isinstance(parsed, JoinConfig):
            return msgspec.structs.replace(node, fail_fast=parsed.fail_fast)
        node = self._remote(node, parsed, at)
        if node.placement == "gateway" and shape.on_lost is None:
            # It goes on from what was kept of it: another holder repeats nothing.
            node = msgspec.structs.replace(node, on_lost="resend")
        return node

    def _condition(self, node: PlanNode, parsed: ConditionConfig, at: str) -> PlanNode:
        if parsed.op != "exists" and parsed.value is msgspec.UNSET:
            self.report(f"{at}.value", f"`{parsed.op}` needs a value to compare with")
        if node.named_secrets:
            self.report(at, "a condition cannot name a secret; only agents and connectors are given them")
        try:
            path = parse_path(parsed.path)
        except PathInvalid as error:
            self.report(f"{at}.path", f"{error}; like $.input.name or $.steps.<nodeId>.output.name")
            return node
        value = None if parsed.value is msgspec.UNSET else parsed.value
        rule = ConditionRule(path, parsed.op, self._template(value, f"{at}.value"))
        named = frozenset() if path.node_id is None else frozenset({path.node_id})
        return msgspec.structs.replace(node, condition=rule, references=node.references | named)

    def _remote(self, node: PlanNode, parsed: Config, at: str) -> PlanNode:
        requirement = Requirement(node.type)
        auth_secret: str | None = None
        execution: ExecutionConfig | None = None
        placement: Placement = "cloud"
        if isinstance(parsed, ConnectorActionConfig):
            self._connector(parsed.connector_id, parsed.action_id, f"{at}.connectorId")
            execution = parsed.execution
            placement = self._placement(execution, ("cloud", "executor"), "cloud", at)
            requirement = Requirement(node.type, connector=parsed.connector_id)
            auth_secret = parsed.auth.secret_id if parsed.auth else None
        elif isinstance(parsed, AgentExecuteConfig):
            execution = parsed.execution
            placement = self._placement(execution, ("executor",), "executor", at)
            self._sandbox(parsed, at)
            requirement = Requirement(node.type, backend=parsed.sandbox.backend if parsed.sandbox else None)
        elif isinstance(parsed, AgentRunConfig):
            execution = parsed.execution
            engine_id, auth_secret = self._engine(parsed, at)
            in_gateway = engine_id in (engines.LOOP, engines.ECHO)
            allowed: tuple[Placement, ...] = ("gateway", "executor") if in_gateway else ("executor",)
            placement = self._placement(execution, allowed, "gateway" if engine_id == engines.LOOP else "executor", at)
            self._tools(parsed, at)
            node = _with_tool_secrets(node, parsed)
            node = self._with_tool_approvals(node, parsed, engine_id, at)
            requirement = Requirement(node.type, engine=engine_id)
        elif isinstance(parsed, HttpRequestConfig):
            self._http(parsed, at)
            requirement = Requirement(node.type, connector=HTTP_CONNECTOR)
            auth_secret = parsed.auth.secret_id if parsed.auth else None
        return placed(node, requirement, execution, placement, auth_secret)

    def _placement(
        self, execution: ExecutionConfig | None, allowed: tuple[Placement, ...], default: Placement, at: str
    ) -> Placement:
        mode = execution.mode if execution and execution.mode else default
        placement: Placement = "executor" if mode == "node" else mode
        if placement not in allowed:
            self.report(f"{at}.execution.mode", f"`{mode}` is not possible here; use {_either(allowed)}")
        elif placement == "cloud" and execution and execution.selector is not None:
            self.report(f"{at}.execution.selector", f'a selector needs mode "executor", here it is "{placement}"')
        return placement

    def _connector(self, connector_id: str, action_id: str | None, path: str) -> None:
        if self._check_connector is not None and (message := self._check_connector(connector_id, action_id)):
            self.report(path, message)

    def _sandbox(self, parsed: AgentExecuteConfig, at: str) -> None:
        sandbox = parsed.sandbox
        if sandbox and sandbox.network and sandbox.network_mode and sandbox.network != sandbox.network_mode:
            self.report(
                f"{at}.sandbox.networkMode", "differs from `network`, of which it is another spelling; drop one"
            )

    def _engine(self, parsed: AgentRunConfig, at: str) -> tuple[str, str | None]:
        """The engine's id, and its secret."""
        if parsed.engine is None:
            auth = parsed.llm.auth if parsed.llm else None
            return engines.LOOP, auth.secret_id if auth else None
        if parsed.llm is not None:
            self.report(f"{at}.llm", "is another spelling of `engine`; give one of the two")
        engine_id = engines.canonical_engine(parsed.engine.id)
        if engine_id is None:
            self.report(f"{at}.engine.id", f"no such engine; use {_either(engines.ENGINES)}")
        auth = parsed.engine.auth
        return engine_id or engines.LOOP, auth.secret_id if auth else None

    def _tools(self, parsed: AgentRunConfig, at: str) -> None:
        auth = (parsed.tools.auth if parsed.tools else None) or {}
        for index, tool in enumerate(parsed.tools.allow if parsed.tools else ()):
            path = f"{at}.tools.allow.{index}"
            if not is_tool(tool):
                self.report(path, NO_SUCH_TOOL)
            elif named := connector_of(tool):
                self._connector(*named, path)
                if named[0] not in auth and self._needs_secret is not None and self._needs_secret(named[0]):
                    self.report(path, f"`{named[0]}` needs a secret: name one in config.tools.auth.{named[0]}.secretId")

    def _with_tool_approvals(self, node: PlanNode, parsed: AgentRunConfig, engine_id: str, at: str) -> PlanNode:
        allow = tuple(parsed.tools.allow) if parsed.tools else ()
        rules = (parsed.tools.approval if parsed.tools else None) or {}
        if rules and engine_id != engines.LOOP:
            self.report(
                f"{at}.tools.approval",
                f"`{engine_id}` asks nobody before it calls a tool; use `{engines.LOOP}`, "
                "or have the whole node allowed: `approval` beside `config`",
            )
        for pattern in rules:
            if not is_allowed(pattern, allow) and not any(fnmatchcase(tool, pattern) for tool in allow):
                self.report(
                    f"{at}.tools.approval.{pattern}", "names no tool of tools.allow; allow one there, or drop this rule"
                )
        return msgspec.structs.replace(node, tools_allow=allow, tool_approvals=rules)

    def _http(self, parsed: HttpRequestConfig, at: str) -> None:
        if "{{" not in parsed.method and parsed.method.upper() not in _METHODS:
            self.report(f"{at}.method", f"must be {_either(_METHODS)}")
        if not parsed.url.startswith(("{{", "http://", "https://")):
            self.report(f"{at}.url", "must begin with http:// or https://")

    # --- shapes and templates ------------------------------------------------------------------------------------

    def _template(self, value: object, path: str) -> Template:
        try:
            return compile_template(value)
        except TemplateInvalid as error:
            self.report(".".join((path, *error.path)), str(error))
            return static(value)

    def _convert(self, raw: object, shape: type[Shape], path: str) -> Shape | None:
        try:
            return msgspec.convert(raw, shape)
        except msgspec.ValidationError as error:
            self.issues.append(shape_issue(error, shape, path))
            return None


def _with_tool_secrets(node: PlanNode, parsed: AgentRunConfig) -> PlanNode:
    """What `tools.auth` names travels with the execution, like what templates name."""
    auth = (parsed.tools.auth if parsed.tools else None) or {}
    named = dict.fromkeys((*node.named_secrets, *(each.secret_id for each in auth.values())))
    return msgspec.structs.replace(node, named_secrets=tuple(named))


def normalise(config: dict[str, object], parsed: Config) -> dict[str, object]:
    """The config with one spelling for everything; keys that are not known stay."""
    config = dict(config)
    execution = config.get("execution")
    if isinstance(execution, dict) and execution.get("mode") == "node":
        config["execution"] = {**execution, "mode": "executor"}
    if isinstance(parsed, AgentExecuteConfig):
        sandbox = config.get("sandbox")
        if isinstance(sandbox, dict) and "networkMode" in sandbox:
            rest = {key: value for key, value in sandbox.items() if key != "networkMode"}
            config["sandbox"] = {"network": sandbox["networkMode"], **rest}
    elif isinstance(parsed, AgentRunConfig):
        engine, llm = config.get("engine"), config.pop("llm", None)
        if isinstance(engine, dict):
            config["engine"] = {**engine, "id": engines.SPELLINGS.get(str(engine["id"]), engine["id"])}
        elif isinstance(llm, dict):
            config["engine"] = {"id": engines.LOOP, **llm}
    elif isinstance(parsed, HttpRequestConfig) and "{{" not in parsed.method:
        config["method"] = parsed.method.upper()
    return config


def placed(
    node: PlanNode,
    requirement: Requirement,
    execution: ExecutionConfig | None,
    placement: Placement,
    auth_secret: str | None,
) -> PlanNode:
    """The node with everything that its `execution` says."""
    selector = selector_of(execution)
    requirement = msgspec.structs.replace(requirement, tags=selector.required_tags())
    # A selector with templates is known only when the node starts; its executor-independent part stays.
    is_static = not any("{{" in text for text in (*requirement.tags, selector.executor_id or ""))
    return msgspec.structs.replace(
        node,
        placement=placement,
        schedule=schedule_of(execution),
        selector=selector,
        requirement=requirement,
        signature=requirement.signature if is_static else "",
        auth_secret=auth_secret,
    )


def selector_of(execution: ExecutionConfig | None) -> Selector:
    """The selector of an `execution`, or an empty one."""
    given = execution.selector if execution else None
    if given is None:
        return Selector()
    return Selector(given.pool, tuple(given.labels or ()), given.group, given.tag, given.executor_id)


def schedule_of(execution: ExecutionConfig | None) -> Schedule:
    """The schedule of an `execution`, or the usual one."""
    given = execution.schedule if execution else None
    if given is None:
        return Schedule("wait", MAX_WAIT_MS_DEFAULT)
    return Schedule(given.on_unavailable, MAX_WAIT_MS_DEFAULT if given.max_wait_ms is None else given.max_wait_ms)


def shape_issue(error: msgspec.ValidationError, shape: type[msgspec.Struct], path: str) -> Issue:
    """msgspec's complaint as an issue: its place as a dotted path, and the allowed values where it has a choice."""
    message, where = str(error), ""
    if match := _AT.match(message):
        message = f"a key: {match['message']}" if match["key"] else match["message"]
        where = match["path"].replace("[...]", ".*").replace("[", ".").replace("]", "")
    if message.startswith("Invalid enum value") and (choices := _choices(shape, where.strip(".").split("."))):
        message = f"{message}; use {_either(choices)}"
    return Issue(BAD_REQUEST, f"{path}{where}", message)


def _choices(shape: object, names: list[str]) -> tuple[str, ...]:
    """The values of the Literal to which the field names lead; empty where they lead to something else."""
    for name in names:
        if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct)):
            return ()
        field = next((field.name for field in msgspec.structs.fields(shape) if field.encode_name == name), None)
        if field is None:
            return ()
        shape = _without_none(get_type_hints(shape)[field])
    return tuple(map(str, get_args(shape))) if get_origin(shape) is Literal else ()


def _without_none(annotation: object) -> object:
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def _either(choices: tuple[str, ...]) -> str:
    quoted = [f"`{choice}`" for choice in choices]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
