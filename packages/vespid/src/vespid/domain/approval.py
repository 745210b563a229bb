"""What a person has to allow: a node before it runs, or calls of tools that an agent wants to make.

The one thing to know: what is allowed is a document and nothing else. `what` is its canonical JSON (keys sorted, no
spaces), `hash` the SHA-256 of that, and whoever decides names the hash of what they saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from vespid.domain.plan import PlanNode, Schedule
from vespid.domain.policy import effective_tools
from vespid.domain.run_event import Ask, NewExecution, RunContext
from vespid.domain.selector import Requirement
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.tools.approval import Approvals

KIND = "approval"
# Of one round of an agent. Nobody looks through more at once.
CALLS_MAX = 200
WHAT_MAX_CHARS = 2_000_000

# What differs from one attempt to the next though the same is done.
_OF_THE_ATTEMPT = frozenset({"attemptCount", "resume", "prior", "approvals"})

_encode = msgspec.json.Encoder(order="sorted").encode


class NotAskable(ValueError):
    """An attempt says that people have to decide, and what they would see is not there or not theirs to decide."""


class Decided(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one approval."""

    id: str
    hash: str
    decision: Literal["approved", "denied", "expired"]
    comment: str | None = None


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """The output of an approval's execution."""

    kind: Literal["node", "tool"]
    decided: Annotated[list[Decided], Meta(min_length=1)]


class _Call(msgspec.Struct, frozen=True):
    n: Annotated[int, Meta(ge=0, le=10_000_000)]
    tool: Annotated[str, Meta(min_length=1, max_length=200)]
    arguments: dict[str, object]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _Parked(msgspec.Struct, frozen=True):
    """The output of an attempt that failed with APPROVAL_REQUIRED. Who may decide is the node's to say, not its."""

    loop: dict[str, msgspec.Raw]
    approvals: Annotated[list[_Call], Meta(min_length=1, max_length=CALLS_MAX)]


class _WithLoop(msgspec.Struct, frozen=True):
    loop: dict[str, msgspec.Raw]


_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_parked = msgspec.json.Decoder(_Parked).decode
_decode_with_loop = msgspec.json.Decoder(_WithLoop).decode


def ask_for_node(node: PlanNode, execution: NewExecution, context: RunContext) -> Ask:
    """The approval of a node: all that would be carried out, and where. The same in every attempt."""
    rule = node.approval
    assert rule is not None, "called for nodes with a rule"
    payload = {key: value for key, value in execution.payload.items() if key not in _OF_THE_ATTEMPT}
    what: dict[str, object] = {
        "kind": "node",
        **_place(node, context),
        "execution": {
            "kind": execution.kind,
            "placement": execution.placement,
            "pool": execution.pool,
            "selector": execution.selector,
            "payload": payload,
            "secretRefs": sorted(execution.secret_refs),
            "authSecret": execution.auth_secret,
            "timeoutMs": execution.timeout_ms,
            "onLost": execution.on_lost,
        },
    }
    text, digest = _bound(what)
    return Ask(
        id=_id(context, execution.request_id),
        kind="node",
        by=rule.by,
        timeout_ms=rule.timeout_ms,
        what=text,
        hash=digest,
    )


def ask_for_calls(node: PlanNode, attempt: int, output: object, context: RunContext) -> list[Ask]:
    """The approvals of the calls that an agent was parked with. Raises NotAskable: an agent may say anything."""
    try:
        parked = _decode_parked(_json(output))
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotAskable(f"what is to be approved is not readable: {error}") from error
    if len({call.n for call in parked.approvals}) < len(parked.approvals):
        raise NotAskable("two calls that are to be approved have the same number")
    request_id = f"{context.run_id}:{node.id}:{attempt}"
    asks = [_ask_for_call(node, request_id, call, context) for call in parked.approvals]
    if sum(len(ask.what) for ask in asks) > WHAT_MAX_CHARS:
        raise NotAskable(f"what is to be approved has more than {WHAT_MAX_CHARS} characters")
    return asks


def asking(node: PlanNode, attempt: int, asks: Sequence[Ask], context: RunContext) -> NewExecution:
    """The execution by which a run waits for people."""
    return NewExecution(
        request_id=f"{context.run_id}:{node.id}:{attempt}",
        node_id=node.id,
        node_type=node.type,
        attempt=attempt,
        kind=KIND,
        placement="person",
        payload={"kind": asks[0].kind, "approvals": [{"id": ask.id, "hash": ask.hash} for ask in asks]},
        requirement=Requirement(KIND),
        signature="",
        schedule=Schedule("wait", max(ask.timeout_ms for ask in asks)),
        # Nobody runs it.
        timeout_ms=0,
        asks=tuple(asks),
    )


def requested(ask: Ask, request_id: str) -> dict[str, object]:
    """The payload of `approval_requested`. What would run is read by the approval's id: it may be long."""
    payload: dict[str, object] = {
        "approvalId": ask.id,
        "requestId": request_id,
        "kind": ask.kind,
        "by": ask.by,
        "timeoutMs": ask.timeout_ms,
        "hash": ask.hash,
    }
    if ask.kind == "tool":
        payload |= {"n": ask.n, "tool": ask.tool}
    return payload


def answer_of(output: object) -> Answer | None:
    """What people decided; None where an execution ended without their answer."""
    try:
        return _decode_answer(_json(output))
    except msgspec.DecodeError:
        return None


def has_loop(output: object) -> bool:
    """Whether a failed attempt left the state of an agent's loop, with which the next one goes on."""
    try:
        return bool(_decode_with_loop(_json(output)).loop)
    except (msgspec.DecodeError, RecursionError):
        return False


def _ask_for_call(node: PlanNode, request_id: str, call: _Call, context: RunContext) -> Ask:
    rule = Approvals(node.tool_approvals).rule(call.tool)
    if rule is None:
        raise NotAskable(f"no rule of the node's tools.approval is for {call.tool}")
    if not is_allowed(call.tool, effective_tools(node.tools_allow, context.policy.settings)):
        raise NotAskable(f"the node does not allow {call.tool}")
    what: dict[str, object] = {
        "kind": "tool",
        **_place(node, context),
        "n": call.n,
        "tool": call.tool,
        "arguments": call.arguments,
        "digest": call.digest,
    }
    text, digest = _bound(what)
    return Ask(
        id=_id(context, f"{request_id}:{call.n}"),
        kind="tool",
        n=call.n,
        tool=call.tool,
        digest=call.digest,
        by=rule.by,
        timeout_ms=rule.timeout_ms,
        what=text,
        hash=digest,
    )


def _place(node: PlanNode, context: RunContext) -> dict[str, object]:
    return {
        "workflowId": context.workflow_id,
        "runId": context.run_id,
        "nodeId": node.id,
        "nodeType": node.type,
    }


def _bound(what: dict[str, object]) -> tuple[str, str]:
    data = _encode(what)
    return data.decode(), hashlib.sha256(data).hexdigest()


def _id(context: RunContext, name: str) -> str:
    """A UUID of version 7, the same for the same question at the same time: the machine draws no lots."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:10])
    time = context.now_ms & (2**48 - 1)
    low = number & (2**62 - 1)
    return str(UUID(int=time << 80 | 7 << 76 | (number >> 62 & 0xFFF) << 64 | 2 << 62 | low))


def _json(value: object) -> bytes:
    return bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
