"""What a connector is: a named set of actions, each with an input Struct, run alike in the cloud and on an agent.

A third-party connector is an instance of `Connector` published under the entry point group `vespid.connectors`:

    class GreetInput(ActionInput):
        name: str

    async def greet(input: GreetInput, secret: str | None, context: ActionContext) -> object:
        return {"greeting": f"hello {input.name}"}

    actions = (Action("greet", GreetInput, greet, "Greet somebody by name."),)
    connector = Connector(id="acme", display_name="Acme", requires_secret=False, actions=actions)

Exceptions: `ConnectorError` is the only one a caller of `Connector.run` sees (besides cancellation).
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

import msgspec

from vespid_runtime.egress import EgressDenied, EgressGuard, EgressInvalid, GuardedHttp

CONNECTOR_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
ACTION_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class ConnectorError(Exception):
    """An action failed: `code` is of the contract, `message` is for people and never holds a secret."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after_ms: int | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        # Whether the same call may succeed later (429, 5xx, network); all else is final.
        self.retryable = retryable
        # What the other side asked us to wait, where it did.
        self.retry_after_ms = retry_after_ms
        self.details = dict(details or {})


class ActionInput(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base of every action's input: camelCase on the wire, unknown keys ignored."""


@dataclass(frozen=True, slots=True)
class ActionLimits:
    """What one call may take from the process that runs it."""

    timeout_ms: int = 60_000
    request_max_bytes: int = 1024 * 1024
    response_max_bytes: int = 1024 * 1024
    max_redirects: int = 5
    max_rows: int = 1_000


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What an action gets besides its input: the guarded way out, its identity, its deadline."""

    # HTTP under the egress guard; owned and stopped by the process, shared by all actions.
    http: GuardedHttp
    # `<runId>:<nodeId>[:tool:<n>]`, the same in every attempt.
    idempotency_key: str
    request_id: str
    # On `monotonic`, in seconds; None means limits.timeout_ms from now.
    deadline: float | None = None
    limits: ActionLimits = field(default_factory=ActionLimits)
    # Set by whoever runs the server or the agent, so exempt from the guard: githubApiBaseUrl, slackApiBaseUrl.
    operator_base_urls: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    # Came with the request (`payload.env`): used when the operator set none, and under the guard.
    request_base_urls: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    monotonic: Callable[[], float] = time.monotonic

    @property
    def guard(self) -> EgressGuard:
        return self.http.guard

    def remaining_s(self, asked_ms: int | None = None) -> float:
        """Seconds this call may still take: the least of what it asked, its limit and its deadline; never negative."""
        own = min(asked_ms or self.limits.timeout_ms, self.limits.timeout_ms) / 1000
        left = own if self.deadline is None else min(own, self.deadline - self.monotonic())
        return max(left, 0.0)


I = TypeVar("I", bound=ActionInput)  # noqa: E741 - the input of one action


@dataclass(frozen=True, slots=True)
class Action(Generic[I]):
    """One thing a connector can do. `handler(input, secret, context)` answers what becomes the node's output (JSON)."""

    id: str
    input_type: type[I]
    handler: Callable[[I, str | None, ActionContext], Awaitable[object]]
    # What it does, for a model that may call it as a tool.
    description: str = ""

    @property
    def input_schema(self) -> dict[str, object]:
        """JSON schema (2020-12) of the input, self-contained, as /v1/meta/connectors publishes it."""
        (schema,), components = msgspec.json.schema_components(
            [self.input_type], schema_hook=_schema_of_any, ref_template="#/$defs/{name}"
        )
        name = self.input_type.__name__
        if schema == {"$ref": f"#/$defs/{name}"}:
            schema = components.pop(name)
        return {**schema, "$defs": components} if components else schema

    async def run(self, input: object, secret: str | None, context: ActionContext) -> object:
        try:
            typed = msgspec.convert(input, self.input_type)
        except msgspec.ValidationError as invalid:
            raise input_error(invalid) from None
        return await self.handler(typed, secret, context)


def _schema_of_any(kind: type) -> dict[str, object]:
    """A field typed `object` takes any JSON value; msgspec asks us for the schema of that."""
    if kind is object:
        return {"description": "any JSON value"}
    raise TypeError(f"{kind} has no JSON schema")


class AnyAction(Protocol):
    """An `Action` of whatever input, as a connector holds it."""

    @property
    def id(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def input_schema(self) -> dict[str, object]: ...

    async def run(self, input: object, secret: str | None, context: ActionContext) -> object: ...


@dataclass(frozen=True, slots=True)
class Connector:
    id: str
    display_name: str
    # With True a call without a secret is refused as SECRET_REQUIRED before the action starts.
    requires_secret: bool
    actions: tuple[AnyAction, ...]

    def action(self, action_id: str) -> AnyAction | None:
        return next((action for action in self.actions if action.id == action_id), None)

    async def run(self, action_id: str, input: object, secret: str | None, context: ActionContext) -> object:
        """The action's output. Raises `ConnectorError` and nothing else; cancellation passes through."""
        action = self.action(action_id)
        if action is None:
            raise action_not_supported(self.id, action_id)
        if self.requires_secret and not secret:
            raise ConnectorError("SECRET_REQUIRED", f"connector {self.id} needs a secret (auth.secretId)")
        seconds = context.remaining_s()
        try:
            async with asyncio.timeout(seconds):
                return await action.run(input, secret, context)
        except ConnectorError:
            raise
        except EgressDenied as denied:
            raise ConnectorError("EGRESS_DENIED", str(denied)) from denied
        except EgressInvalid as invalid:
            raise invalid_input("url", str(invalid)) from invalid
        except TimeoutError as late:
            message = f"{self.id}.{action_id} did not finish within {seconds:.1f} s"
            raise ConnectorError("NODE_EXECUTION_TIMEOUT", message, retryable=True) from late
        except Exception as unforeseen:
            # The text of a foreign exception may quote what it was given, a secret included: only its kind is told.
            message = f"{self.id}.{action_id} raised {type(unforeseen).__name__}"
            raise ConnectorError("NODE_EXECUTION_FAILED", message, retryable=True) from unforeseen


def action_not_supported(connector_id: str, action_id: str) -> ConnectorError:
    message = f"no action {action_id!r} on connector {connector_id!r}"
    return ConnectorError(f"ACTION_NOT_SUPPORTED:{connector_id}:{action_id}", message)


def invalid_input(field_name: str, problem: str) -> ConnectorError:
    """INVALID_ACTION_INPUT that names the field, for the checks a schema cannot express."""
    return ConnectorError("INVALID_ACTION_INPUT", f"{field_name}: {problem}", details={"field": field_name})


_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")


def input_error(invalid: msgspec.ValidationError) -> ConnectorError:
    """msgspec says the path of the object and, apart from it, a missing key: join them to the field's own path."""
    text = str(invalid)
    at = _PATH.search(text)
    path = at["path"] if at else ""
    problem = text[: at.start()] if at else text
    missing = _MISSING.search(problem)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
    return invalid_input(path or "input", problem)
