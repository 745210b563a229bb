"""A store of one run in memory: it does with effects what the real one does, and keeps every event."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest

from vespid.domain.plan import Plan
from vespid.domain.policy import RunPolicy
from vespid.domain.run import (
    CancelRequested,
    Emit,
    NewExecution,
    NodeCancelled,
    NodeFailed,
    NodeSucceeded,
    OutputsMissing,
    RunContext,
    RunEvent,
    RunState,
    Start,
    TimerDue,
    Transition,
    decode_state,
    encode_state,
    step,
)
from vespid.domain.workflow import parse

RUN_ID = "01900000-0000-7000-8000-000000000001"


@dataclass
class Run:
    """One run: its cursor as stored JSON, its events, its executions that are not terminal."""

    plan: Plan
    family_id: str = ""
    input: object = None
    policy: RunPolicy = field(default_factory=RunPolicy)
    now_ms: int = 1_000_000
    stored: bytes = b"{}"
    events: list[Emit] = field(default_factory=list)
    executions: dict[str, NewExecution] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    outputs: dict[str, object] = field(default_factory=dict)
    # What steps asked for.
    loads: list[frozenset[str]] = field(default_factory=list)

    @property
    def state(self) -> RunState:
        return decode_state(self.stored)

    def apply(self, event: RunEvent) -> Transition:
        state = self.state
        wanted: frozenset[str] = frozenset()
        while True:
            try:
                transition = step(self.plan, state, event, self._context(wanted))
                break
            except OutputsMissing as missing:
                more = missing.node_ids - wanted
            assert more, "what was loaded is not asked for again"
            wanted = wanted | more
            self.loads.append(more)
        was = state.nodes.get(event.node_id) if isinstance(event, NodeSucceeded) else None
        is_answer = was is not None and was.status in ("asking", "withdrawing")
        if isinstance(event, NodeSucceeded) and event.node_id not in self.outputs and not is_answer:
            self.outputs[event.node_id] = event.output
        self.stored = encode_state(transition.state)
        self.events += transition.emits
        for execution in transition.dispatches:
            assert execution.request_id not in self.executions, "a requestId is used once"
            self.executions[execution.request_id] = execution
            self.live[execution.node_id] = execution.attempt
        for cancel in transition.cancels:
            assert self.live[cancel.node_id] == cancel.attempt
            assert cancel.request_id in self.executions
            self.cancelled.append(cancel.node_id)
        return transition

    def _context(self, loaded: frozenset[str]) -> RunContext:
        return RunContext(
            organization_id="org",
            run_id=RUN_ID,
            workflow_id="workflow",
            family_id=self.family_id,
            user_id="user",
            now_ms=self.now_ms,
            input=msgspec.Raw(msgspec.json.encode(self.input)),
            outputs={node_id: msgspec.Raw(msgspec.json.encode(self.outputs[node_id])) for node_id in loaded},
            policy=self.policy,
        )

    # --- the world around it -------------------------------------------------------------------------------------

    def start(self) -> Transition:
        return self.apply(Start())

    def succeed(self, node_id: str, output: object = None) -> Transition:
        return self.apply(NodeSucceeded(node_id, self.live.pop(node_id), output))

    def fail(self, node_id: str, code: str = "NODE_EXECUTION_FAILED", **more: object) -> Transition:
        return self.apply(NodeFailed(node_id, self.live.pop(node_id), code, **more))

    def park(self, node_id: str, *calls: dict[str, object], loop: object = None) -> Transition:
        """The attempt of an agent ends with calls that people have to allow."""
        output = {"loop": {"state": "calling"} if loop is None else loop, "approvals": list(calls)}
        return self.fail(node_id, "APPROVAL_REQUIRED", output=output)

    def decide(self, node_id: str, *decisions: str, comment: str | None = None) -> Transition:
        """People answer all that the node's execution asks, in its order; `expired`: they did not."""
        execution = self.execution(node_id)
        assert execution.kind == "approval"
        answers = [
            {"id": ask.id, "hash": ask.hash, "decision": decision, "comment": comment}
            for ask, decision in zip(execution.asks, decisions, strict=True)
        ]
        output = {"kind": execution.asks[0].kind, "decided": answers}
        if "expired" in decisions:
            return self.fail(node_id, "APPROVAL_EXPIRED", output=output)
        return self.succeed(node_id, output)

    def confirm_cancel(self, node_id: str) -> Transition:
        return self.apply(NodeCancelled(node_id, self.live.pop(node_id)))

    def cancel(self) -> Transition:
        return self.apply(CancelRequested())

    def wait_for_timer(self) -> Transition:
        due = self.state.next_due_at
        assert due is not None
        self.now_ms = max(self.now_ms, due)
        return self.apply(TimerDue(self.now_ms))

    def said(self) -> list[str]:
        """The events as `type` or `type node`."""
        return [f"{event.event_type} {event.node_id}" if event.node_id else event.event_type for event in self.events]

    def execution(self, node_id: str) -> NewExecution:
        """The node's latest."""
        return [execution for execution in self.executions.values() if execution.node_id == node_id][-1]


def shell(node_id: str, **more: object) -> dict[str, object]:
    """An agent.execute node; `script` and `config` may be given, the rest goes beside config."""
    script = more.pop("script", "true")
    config = {"task": {"type": "shell", "script": script}} | dict(more.pop("config", {}))
    return {"id": node_id, "type": "agent.execute", "config": config, **more}


def agent(node_id: str, allow: tuple[str, ...] = (), **more: object) -> dict[str, object]:
    """An agent.run node of our own loop, on an executor; `approval` is of its tools, the rest goes beside config."""
    tools: dict[str, object] = {"allow": list(allow)}
    if "tool_approval" in more:
        tools["approval"] = more.pop("tool_approval")
    config = {
        "engine": {"id": "vespid.loop.v1", "model": "m"},
        "prompt": {"instructions": "do it"},
        "tools": tools,
        "execution": {"mode": "executor"},
    }
    return {"id": node_id, "type": "agent.run", "config": config | dict(more.pop("config", {})), **more}


def condition(node_id: str, path: str = "$.input.go", op: str = "eq", value: object = True) -> dict[str, object]:
    return {"id": node_id, "type": "condition", "config": {"path": path, "op": op, "value": value}}


def join(node_id: str, **config: object) -> dict[str, object]:
    return {"id": node_id, "type": "parallel.join", "config": {"mode": "all", **config}}


def listed(*nodes: dict[str, object]) -> dict[str, object]:
    """A v2 document."""
    return {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": list(nodes)}


def graph(nodes: list[dict[str, object]], *edges: str) -> dict[str, object]:
    """A v3 document; edges as `a>b`, `a+b` (cond_true), `a-b` (cond_false)."""
    kinds = {">": "always", "+": "cond_true", "-": "cond_false"}
    written = [
        {"id": f"e{index}", "from": edge[: edge.index(sign)], "to": edge[edge.index(sign) + 1 :], "kind": kinds[sign]}
        for index, edge in enumerate(edges)
        for sign in kinds
        if sign in edge
    ]
    by_id = {str(node["id"]): {key: value for key, value in node.items() if key != "id"} for node in nodes}
    return {"version": "v3", "trigger": {"type": "trigger.manual"}, "graph": {"nodes": by_id, "edges": written}}


class Kit:
    """The builders of documents, and of runs over them."""

    shell = staticmethod(shell)
    agent = staticmethod(agent)
    condition = staticmethod(condition)
    join = staticmethod(join)
    listed = staticmethod(listed)
    graph = staticmethod(graph)

    def run(self, document: dict[str, object], **more: object) -> Run:
        return Run(parse(document).plan, **more)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
