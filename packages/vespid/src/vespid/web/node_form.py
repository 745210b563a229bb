"""The fields that the editor's form has for each type of node; the rest of a node is written in the JSON beside it.

`path` is below the node, as in the contract. A test holds the paths against the shapes that the API reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["text", "code", "lines", "number", "choice", "yes", "json", "connector", "action", "engine", "secret"]


def _field(path: str, kind: Kind = "text", options: Sequence[str] = (), **more: Any) -> Mapping[str, Any]:
    """`also`: what is set beside a value. `value`: what is meant where nothing is set."""
    return {"path": path, "kind": kind, "options": list(options), **more}


_WHERE = _field("config.execution.mode", "choice", ("executor", "gateway"))
_TAG = _field("config.execution.selector.tag")

FIELDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "agent.execute": (
        _field("config.task.script", "code", also={"config.task.type": "shell"}),
        _field("config.task.shell", "choice", ("sh", "bash")),
        _TAG,
        _field("config.sandbox.backend", "choice", ("bubblewrap", "docker", "host")),
        _field("config.sandbox.network", "choice", ("none", "enabled")),
    ),
    "agent.run": (
        _field("config.engine.id", "engine"),
        _field("config.engine.model"),
        _field("config.engine.auth.secretId", "secret"),
        _field("config.prompt.system", "code"),
        _field("config.prompt.instructions", "code", required=True),
        _field("config.tools.allow", "lines"),
        _field("config.limits.maxTurns", "number"),
        _field("config.output.mode", "choice", ("text", "json")),
        _WHERE,
        _TAG,
    ),
    "connector.action": (
        _field("config.connectorId", "connector"),
        _field("config.actionId", "action"),
        _field("config.input", "json"),
        _field("config.auth.secretId", "secret"),
        _field("config.execution.mode", "choice", ("cloud", "executor")),
    ),
    "http.request": (
        _field("config.method", "choice", ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"), required=True),
        _field("config.url", required=True),
        _field("config.headers", "json"),
        _field("config.body", "json"),
        _field("config.auth.secretId", "secret"),
    ),
    "condition": (
        _field("config.path", required=True),
        _field("config.op", "choice", ("eq", "neq", "contains", "exists", "gt", "gte", "lt", "lte"), required=True),
        _field("config.value", "json"),
    ),
    "parallel.join": (_field("config.failFast", "yes", value=True),),
}

# Of every node that is carried out somewhere.
COMMON: Sequence[Mapping[str, Any]] = (
    _field("timeoutMs", "number"),
    _field("retry.maxAttempts", "number"),
    _field("retry.backoffMs", "number"),
    _field("onLost", "choice", ("fail", "resend", "wait")),
    _field("approval.by", "choice", ("member", "admin", "owner")),
)
INLINE = ("condition", "parallel.join")

# A new node of each type, without its id.
NEW_NODES: Mapping[str, Mapping[str, Any]] = {
    "agent.execute": {"config": {"task": {"type": "shell", "script": "echo hello"}}},
    "agent.run": {"config": {"engine": {"id": "vespid.echo.v1"}, "prompt": {"instructions": "Say hello."}}},
    "connector.action": {
        "config": {"connectorId": "http", "actionId": "request", "input": {"url": "https://example.org/"}}
    },
    "http.request": {"config": {"method": "GET", "url": "https://example.org/"}},
    "condition": {"config": {"path": "$.input", "op": "exists"}},
    "parallel.join": {"config": {"mode": "all"}},
}


def node_form() -> Mapping[str, Any]:
    """All of it, for the editor's script."""
    return {"fields": FIELDS, "common": COMMON, "inline": INLINE, "nodes": NEW_NODES}


def field_names() -> list[str]:
    """The name of each field, which is the end of its key among the texts."""
    names = [field["path"] for fields in FIELDS.values() for field in fields] + [field["path"] for field in COMMON]
    return sorted({name.removeprefix("config.").replace(".", "_") for name in names})
