"""A node of a run as a turn: the payload of `agent.run`, what it asks of an engine, and the answer as its output.

The one thing to know: the message is the instructions and, behind them, what they are about (`inputTemplate`). The
server has filled their templates, and `{{secrets.<id>}}` in a prompt is never filled: a model is given no secret.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from vespid_runtime.engines.config import Auth, EngineChoice, Limits, Output, Prompt, SessionConfig
from vespid_runtime.engines.engine import TurnAnswer, TurnRequest
from vespid_runtime.engines.names import LOOP, SPELLINGS
from vespid_runtime.memory.paths import workflow_key
from vespid_runtime.models.types import Usage
from vespid_runtime.tools.approval import ApprovalDecided, ApprovalRule, Approvals
from vespid_runtime.tools.event import ToolEvent
from vespid_runtime.tools.toolbox import Toolbox


class _Part(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    pass


class NodeEngine(_Part, frozen=True, kw_only=True):
    """Its key travels beside the payload."""

    id: str = LOOP
    model: str | None = None
    provider: str | None = None

    @property
    def canonical_id(self) -> str:
        return SPELLINGS.get(self.id, self.id)


class NodePrompt(_Part, frozen=True, kw_only=True):
    instructions: str = ""
    system: str | None = None
    input_template: str | None = None


class ToolAuth(_Part, frozen=True, kw_only=True):
    secret_id: str


class NodeTools(_Part, frozen=True, kw_only=True):
    """The payload's `effectiveToolsAllow` has the last word on `allow`."""

    allow: tuple[str, ...] = ()
    # By connector: the secret that its actions are given.
    auth: dict[str, ToolAuth] = {}
    # By tool id or glob.
    approval: dict[str, ApprovalRule] = {}


class NodeConfig(_Part, frozen=True, kw_only=True):
    engine: NodeEngine = NodeEngine()
    prompt: NodePrompt = NodePrompt()
    tools: NodeTools = NodeTools()
    limits: Limits | None = None
    output: Output | None = None


class Node(_Part, frozen=True, kw_only=True):
    id: str
    config: NodeConfig


class NodePayload(_Part, frozen=True, kw_only=True):
    """Of `agent.run`, as far as whoever runs it reads it."""

    node: Node
    run_id: str = ""
    workflow_id: str = ""
    # All revisions of a workflow are one family, named by the id of the first.
    family_id: str = ""
    attempt_count: int = 1
    # None: whoever made it knows of nothing that narrows what the node allows.
    effective_tools_allow: tuple[str, ...] | None = None
    # GITHUB_API_BASE_URL and the like.
    env: dict[str, str] = {}
    # From where to go on: what an earlier attempt kept last, or was parked with.
    resume: msgspec.Raw = msgspec.Raw()
    # Of earlier attempts, oldest first.
    prior: tuple[ToolEvent, ...] = ()
    # What people have decided so far.
    approvals: tuple[ApprovalDecided, ...] = ()

    @property
    def tools_allow(self) -> tuple[str, ...]:
        """What the model may call."""
        effective = self.effective_tools_allow
        return self.node.config.tools.allow if effective is None else effective

    @property
    def memory_key(self) -> str | None:
        """Under which the node remembers; None where it belongs to no workflow."""
        workflow = self.family_id or self.workflow_id
        return workflow_key(workflow) if workflow else None


_decode = msgspec.json.Decoder(NodePayload).decode


def read_payload(payload: bytes | msgspec.Raw) -> NodePayload:
    """Raises msgspec.DecodeError, naming the field and never a value."""
    return _decode(payload)


def turn_of(
    payload: NodePayload,
    *,
    request_id: str,
    organization_id: str,
    user_id: str,
    timeout_ms: int,
    api_key: str | None = None,
    tools: Toolbox | None = None,
    workdir: Path | None = None,
    resume: bytes | None = None,
) -> TurnRequest:
    """The turn that the node asks for. `timeout_ms`: what is left of the node's time; `resume`: the holder's own."""
    config = payload.node.config
    engine, prompt = config.engine, config.prompt
    limits = Limits() if config.limits is None else config.limits
    kept = bytes(payload.resume)
    return TurnRequest(
        request_id=request_id,
        session_id=None,
        organization_id=organization_id,
        user_id=user_id,
        message="\n\n".join(text for text in (prompt.instructions, prompt.input_template) if text),
        prior=payload.prior,
        config=SessionConfig(
            engine=EngineChoice(
                id=engine.canonical_id,
                model=engine.model,
                provider=engine.provider,
                auth_mode="env" if api_key is None else "inline_api_key",
                auth=None if api_key is None else Auth(kind="api_key", api_key=api_key),
            ),
            prompt=Prompt(system=prompt.system),
            tools_allow=payload.tools_allow,
            limits=msgspec.structs.replace(limits, timeout_ms=max(1, min(limits.timeout_ms or timeout_ms, timeout_ms))),
        ),
        idempotency_key=f"{payload.run_id or request_id.partition(':')[0]}:{payload.node.id}",
        tools=Toolbox() if tools is None else tools,
        approvals=Approvals(config.tools.approval, payload.approvals),
        output=Output() if config.output is None else config.output,
        workdir=workdir,
        resume=resume or (kept if kept not in (b"", b"null") else None),
    )


def node_output(engine_id: str, request: TurnRequest, answer: TurnAnswer) -> dict[str, object]:
    """`{engineId, text|json, usage?, model?, provider?, stopReason?}`."""
    output: dict[str, object] = {"engineId": engine_id}
    if request.output.mode == "json" and answer.value is not msgspec.UNSET:
        output["json"] = answer.value
    else:
        output["text"] = answer.content
    return output | (answer.payload or {})


def node_spent(payload: NodePayload, usage: Usage | None) -> dict[str, object]:
    """What an attempt without an answer says in its output of what the model took; nothing where nobody knows."""
    if usage is None:
        return {}
    engine = payload.node.config.engine
    named = {"provider": engine.provider, "model": engine.model}
    return {"usage": msgspec.to_builtins(usage), **{key: name for key, name in named.items() if name}}
