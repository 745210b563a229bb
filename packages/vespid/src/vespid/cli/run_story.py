"""A run's events in words: who did what when, and what programs and models said meanwhile.

Output comes in pieces that end anywhere. It is told by whole lines: what has no end of line yet waits for it, or for
the node to do something else.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from vespid.cli import moments
from vespid.cli.output import Cell, Output
from vespid.cli.plain import plain

ENDS = frozenset({"run_succeeded", "run_failed", "run_cancelled"})
_NODE_ENDS = frozenset({"node_succeeded", "node_failed", "node_skipped"})
# Kinds of remote events that are text, with what stands before their lines.
_OUTPUT = {"stdout": "│ ", "stderr": "! ", "text_delta": "› "}
# What has no end of line by then is told all the same.
_HELD_MAX_CHARS = 8_192
_SHORT_CHARS = 160


class Event(Protocol):
    """Of a run's history, as the client library has it."""

    @property
    def event_type(self) -> str: ...
    @property
    def node_id(self) -> str | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def payload(self) -> Any: ...
    @property
    def created_at(self) -> Any: ...
    @property
    def attempt_count(self) -> int: ...


class RunStory:
    """Tells one run, event by event."""

    def __init__(self, out: Output) -> None:
        self._out = out
        # Of each node and stream: the text of a line that has no end yet, and when it came.
        self._held: dict[tuple[str, str], tuple[Any, str]] = {}
        self._started: dict[str, Any] = {}
        # As wide as the widest id so far: columns move at most a few times.
        self._width = 8

    def tell(self, event: Event) -> None:
        """What happened, in a line or several."""
        node = plain(event.node_id or "run")
        self._width = max(self._width, min(len(node), 24))
        if event.event_type == "remote_event":
            self._tell_remote(node, event)
            return
        if event.event_type == "remote_result_received":
            # The end of the node follows at once and says it all.
            return
        self._release(node)
        if event.event_type == "node_started":
            self._started.setdefault(node, event.created_at)
        words = _WORDS.get(event.event_type)
        payload = event.payload if isinstance(event.payload, Mapping) else {}
        said, style = words(event, payload) if words else (event.event_type.replace("_", " "), "")
        if event.event_type in _NODE_ENDS and node in self._started:
            said += f" ({moments.between(self._started.pop(node), event.created_at)})"
        self._line(event.created_at, node, (said, style))

    def end(self) -> None:
        """Tell what is still held."""
        for node in {node for node, _ in self._held}:
            self._release(node)

    def _tell_remote(self, node: str, event: Event) -> None:
        payload = event.payload if isinstance(event.payload, Mapping) else {}
        kind = str(payload.get("kind") or event.message or "event")
        inner = payload.get("payload")
        told = inner if isinstance(inner, Mapping) else {}
        text = told.get("text")
        if kind in _OUTPUT and isinstance(text, str):
            self._hold(node, kind, event.created_at, text)
            return
        self._release(node)
        self._line(event.created_at, node, _remote_words(kind, payload.get("message"), inner, told))

    def _hold(self, node: str, kind: str, at: Any, text: str) -> None:
        began, held = self._held.pop((node, kind), (at, ""))
        *lines, rest = (held + text).split("\n")
        for line in lines:
            self._output(began, node, kind, line)
        if len(rest) > _HELD_MAX_CHARS:
            self._output(began, node, kind, rest)
        elif rest:
            self._held[(node, kind)] = (began if not lines else at, rest)

    def _release(self, node: str) -> None:
        for held_node, kind in [key for key in self._held if key[0] == node]:
            at, text = self._held.pop((held_node, kind))
            self._output(at, node, kind, text)

    def _output(self, at: Any, node: str, kind: str, text: str) -> None:
        self._out.output_line(self._head(at, node), _OUTPUT[kind], text, "red" if kind == "stderr" else "dim")

    def _line(self, at: Any, node: str, *cells: Cell) -> None:
        self._out.line(*self._head(at, node), *cells)

    def _head(self, at: Any, node: str) -> tuple[Cell, ...]:
        return ((moments.clock(at), "dim"), "  ", (node.ljust(self._width), "cyan"), "  ")


def short_json(value: object) -> str:
    """A value in few characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = plain(text).strip()
    return text if len(text) <= _SHORT_CHARS else text[: _SHORT_CHARS - 1] + "…"


def tool_line(told: Mapping[str, Any]) -> str:
    """A tool's call in one line: its name and its arguments, folded."""
    arguments = told.get("arguments", told.get("input"))
    return f"{told.get('tool', 'tool')}({'' if arguments is None else short_json(arguments)})"


def _remote_words(kind: str, message: Any, inner: Any, told: Mapping[str, Any]) -> tuple[str, str]:
    if kind == "tool_call":
        return (f"calls {tool_line(told)}", "blue")
    if kind == "tool_result":
        said = short_json(told.get("content", told.get("result", "")))
        is_error = bool(told.get("isError"))
        return (f"{told.get('tool', 'tool')} {'failed' if is_error else 'answered'}: {said}", "red" if is_error else "")
    if kind == "gap":
        return ("(some output was lost on the way)", "yellow")
    said = str(message) if message else ("" if inner is None else short_json(inner))
    return (f"{kind}: {said}" if said else kind, "")


def _started(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    return ("started", "")


def _run_started(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    return ("started", "bold")


def _waiting(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    reason = payload.get("reason")
    if reason == "APPROVAL":
        return ("waits for people", "yellow")
    return (f"waits: {reason}" if reason else "waits", "yellow")


def _dispatched(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    return (f"sent out ({payload.get('kind', 'work')})", "dim")


def _asked(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    what = f"a call of {payload['tool']}" if payload.get("tool") else "this node"
    return (f"asks {payload.get('by', 'people')} to allow {what}: vespid approve {payload.get('approvalId')}", "yellow")


def _decided(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    decision = str(payload.get("decision", event.message or "decided"))
    comment = f": {payload['comment']}" if payload.get("comment") else ""
    return (f"{decision}{comment}", "green" if decision == "approved" else "red")


def _succeeded(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    if "exitCode" in payload:
        return (f"succeeded, exit code {payload['exitCode']}", "green")
    if isinstance(payload.get("explain"), str):
        return (f"succeeded: {short_json(payload['explain'])}", "green")
    return ("succeeded", "green")


def _failed(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    return (f"failed: {_error(event, payload)}", "red")


def _skipped(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    reason = payload.get("reasonCode") or event.message
    return (f"skipped: {reason}" if reason else "skipped", "dim")


def _retried(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    tries = f" {event.attempt_count} of {payload['maxAttempts']}" if payload.get("maxAttempts") else ""
    return (f"try{tries} failed, will be tried again: {_error(event, payload)}", "yellow")


def _run_succeeded(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    return ("succeeded", "green bold")


def _run_failed(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    at = f" at {payload['failedNodeId']}" if payload.get("failedNodeId") else ""
    return (f"failed{at}: {_error(event, payload)}", "red bold")


def _run_cancelled(event: Event, payload: Mapping[str, Any]) -> tuple[str, str]:
    return ("cancelled", "yellow bold")


def _error(event: Event, payload: Mapping[str, Any]) -> str:
    code = str(payload.get("code") or payload.get("error") or event.message or "unknown")
    message = payload.get("message")
    return f"{code}, {message}" if message and message != code else code


_WORDS: Mapping[str, Callable[[Event, Mapping[str, Any]], tuple[str, str]]] = {
    "run_started": _run_started,
    "node_started": _started,
    "node_waiting": _waiting,
    "node_dispatched": _dispatched,
    "approval_requested": _asked,
    "approval_decided": _decided,
    "node_succeeded": _succeeded,
    "node_failed": _failed,
    "node_skipped": _skipped,
    "node_retried": _retried,
    "run_retried": _retried,
    "run_succeeded": _run_succeeded,
    "run_failed": _run_failed,
    "run_cancelled": _run_cancelled,
}
