"""The run machine: `step` is pure, state and event in, new state and effects out. Its tables are in run_table.py.

Nodes start as soon as all nodes before them are over: a node runs if at least one edge to it was taken and none of the
nodes before it failed; a `parallel.join` runs if all of its edges were taken. Otherwise it is skipped, and so on behind
it. Nodes without I/O (conditions, joins) run within the step. When a node fails for good, the run fails: its other
branches are cancelled, unless every join behind the node says `failFast:false`: then they run on to their end first.

A failed node without its own `retry` waits for the run's next attempt, together with all others that fail until then;
nothing that succeeded runs again. The number in a requestId is the node's attempt and only grows.

Where a person has to allow something, an attempt of the node is an execution that nobody but people can end. A node is
asked for before it runs, and asked for again only if what would run is not what was allowed; calls of an agent's tools
are asked for when an attempt ends with them, and the next attempt goes on from there: whoever sends it adds the
loop that was left and what was decided.
"""

from __future__ import annotations

import heapq
from typing import assert_never

import msgspec

from vespid.domain.approval import (
    NotAskable,
    answer_of,
    ask_for_calls,
    ask_for_node,
    asking,
    has_loop,
    requested,
)
from vespid.domain.condition import evaluate
from vespid.domain.execution import Unbuildable, build
from vespid.domain.path import MISSING
from vespid.domain.payload import cut
from vespid.domain.plan import INLINE_TYPES, Edge, Plan, PlanNode
from vespid.domain.policy import BACKOFF_CAP_MS, pause_ms
from vespid.domain.run_event import (
    Ask,
    CancelExecution,
    CancelRequested,
    Dispatch,
    Effect,
    Emit,
    EventType,
    Level,
    NewExecution,
    NodeCancelled,
    NodeFailed,
    NodeSucceeded,
    OutputsMissing,
    RunContext,
    RunEvent,
    Start,
    TimerDue,
    Transition,
)
from vespid.domain.run_state import NODE_TERMINAL, NodeState, NodeStatus, RunState, decode_state, encode_state
from vespid.domain.run_table import NODE_TABLE, Failure, IllegalTransition, NodeMove, RunMove, Verdict, judge, run_move
from vespid.domain.template import FilledTooLarge, TemplateValueMissing
from vespid_protocol.codes import Code

__all__ = [
    "CancelExecution",
    "CancelRequested",
    "Dispatch",
    "Effect",
    "Emit",
    "IllegalTransition",
    "NewExecution",
    "NodeCancelled",
    "NodeFailed",
    "NodeState",
    "NodeSucceeded",
    "OutputsMissing",
    "RunContext",
    "RunEvent",
    "RunState",
    "Start",
    "TimerDue",
    "Transition",
    "decode_state",
    "encode_state",
    "step",
]

_CANCELLED = Code.NODE_EXECUTION_CANCELLED.value


def step(plan: Plan, state: RunState, event: RunEvent, context: RunContext) -> Transition:
    """One step. Late, repeated and unknown results change nothing: the same state object comes back.

    Raises OutputsMissing, and IllegalTransition for an event that no table knows. The caller's state never changes.
    """
    move = run_move(state.phase, event)
    if move is RunMove.IGNORE:
        return Transition(state)
    work = _Step(plan, state, context)
    if isinstance(event, (NodeSucceeded, NodeFailed, NodeCancelled)):
        node = state.nodes.get(event.node_id)
        if node is None or node.attempt != event.attempt:
            return Transition(state)
        node_move = NODE_TABLE[node.status][type(event)]
        if node_move is NodeMove.IGNORE:
            return Transition(state)
        work.result(node_move, event)
    elif isinstance(event, Start):
        work.begin()
    elif isinstance(event, TimerDue):
        if not work.wake(event.now_ms):
            return Transition(state)
    elif isinstance(event, CancelRequested):
        work.stop("cancelling")
    else:
        assert_never(event)
    return work.finish()


class _Step:
    """One step at work: a copy of the cursor, and the effects gathered so far. Also the scope of templates."""

    __slots__ = (
        "_ahead",
        "_attempt_count",
        "_cancels",
        "_context",
        "_dispatches",
        "_emits",
        "_error",
        "_error_message",
        "_failed_node",
        "_fresh_outputs",
        "_input",
        "_next_attempt_at",
        "_nodes",
        "_phase",
        "_plan",
        "_taken_from",
    )

    def __init__(self, plan: Plan, state: RunState, context: RunContext) -> None:
        self._plan = plan
        self._context = context
        self._phase = state.phase
        self._attempt_count = state.attempt_count
        self._next_attempt_at = state.next_attempt_at
        self._error = state.error
        self._error_message = state.error_message
        self._failed_node = state.failed_node
        self._nodes = dict(state.nodes)
        self._taken_from = state.taken_from
        self._emits: list[Emit] = []
        self._dispatches: list[NewExecution] = []
        self._cancels: list[CancelExecution] = []
        # Ranks of nodes to look at again, a heap: the order of events is that of the plan.
        self._ahead: list[int] = []
        self._fresh_outputs: dict[str, object] = {}
        self._input: object = MISSING

    # --- the moves of a run --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The first start."""
        self._phase = "running"
        self._attempt_count = 1
        context = self._context
        self._emit(
            "run_started",
            payload={
                "runId": context.run_id,
                "workflowId": context.workflow_id,
                "orgId": context.organization_id,
                "attemptCount": 1,
            },
        )
        for node_id in self._plan.roots:
            heapq.heappush(self._ahead, self._plan.by_id[node_id].rank)
        for node in self._plan.nodes:
            if (taken := self._nodes.get(node.id)) is not None:
                payload = {"runId": self._taken_from, "status": taken.status}
                self._emit("node_taken_over", node=node, payload=payload)
                self._look_behind(node)

    def wake(self, now_ms: int) -> bool:
        """Starts what is due; False where nothing is."""
        statuses = set()
        if self._next_attempt_at is not None and self._next_attempt_at <= now_ms:
            self._next_attempt_at = None
            self._attempt_count += 1
            statuses.add("awaiting")
        due = [
            self._plan.by_id[node_id]
            for node_id, node in self._nodes.items()
            if node.status in statuses or (node.due_at is not None and node.due_at <= now_ms)
        ]
        for node in sorted(due, key=lambda node: node.rank):
            if self._phase == "running":
                self._start(node)
        return bool(due)

    def stop(self, phase: str) -> None:
        """Cancels whatever is live or planned; the run ends with the last of them."""
        self._phase = "failing" if phase == "failing" else "cancelling"
        self._next_attempt_at = None
        self._ahead.clear()
        unsent = {execution.node_id: execution for execution in self._dispatches}
        self._dispatches.clear()
        for node_id, node in list(self._nodes.items()):
            if node_id in unsent:
                # Dispatched within this very step: there is nothing to cancel yet.
                self._end_cancelled(self._plan.by_id[node_id])
            elif node.status in ("live", "asking"):
                told = "cancelling" if node.status == "live" else "withdrawing"
                self._nodes[node_id] = msgspec.structs.replace(node, status=told)
                request_id = f"{self._context.run_id}:{node_id}:{node.attempt}"
                self._cancels.append(CancelExecution(request_id, node_id, node.attempt))
            elif node.status in ("backoff", "awaiting"):
                # The failure of its last attempt has been told already.
                self._nodes[node_id] = msgspec.structs.replace(node, status="cancelled", due_at=None)

    def result(self, move: NodeMove, event: NodeSucceeded | NodeFailed | NodeCancelled) -> None:
        """A result of a node's current attempt."""
        node = self._plan.by_id[event.node_id]
        if move is NodeMove.SUCCEED and isinstance(event, NodeSucceeded):
            self._fresh_outputs[node.id] = event.output
            self._succeed(node, event.output)
        elif move is NodeMove.FAIL and isinstance(event, NodeFailed):
            self._fail(node, event)
        elif move is NodeMove.DECIDED:
            self._decided(node, event)
        elif move is NodeMove.DENY:
            self._fail(node, NodeFailed(node.id, event.attempt, _CANCELLED))
        else:
            self._end_cancelled(node)

    def finish(self) -> Transition:
        """Looks at everything that may go on now, then at whether the run is over."""
        while self._ahead:
            node = self._plan.nodes[heapq.heappop(self._ahead)]
            if node.id not in self._nodes:
                self._reach(node)
        self._end_if_over()
        state = RunState(
            phase=self._phase,
            attempt_count=self._attempt_count,
            next_attempt_at=self._next_attempt_at,
            error=self._error,
            error_message=self._error_message,
            failed_node=self._failed_node,
            nodes=self._nodes,
        )
        return Transition(state, self._emits, self._dispatches, self._cancels)

    def _end_if_over(self) -> None:
        for node in self._nodes.values():
            if node.status not in NODE_TERMINAL:
                return
        count: dict[str, object] = {
            "completedNodeCount": sum(1 for node in self._nodes.values() if node.status == "succeeded")
        }
        if self._phase == "cancelling":
            self._phase = "cancelled"
            self._emit("run_cancelled", "warn", payload=count)
        elif self._error is None:
            self._phase = "succeeded"
            self._emit("run_succeeded", payload=count)
        else:
            self._phase = "failed"
            payload = {"code": self._error, "failedNodeId": self._failed_node, **count}
            if self._error_message is not None:
                payload["message"] = self._error_message
            self._emit("run_failed", "error", message=self._error, payload=payload)

    # --- reaching a node -----------------------------------------------------------------------------------------

    def _reach(self, node: PlanNode) -> None:
        """Starts or skips a node, if all nodes before it are over."""
        taken = 0
        blockers: list[str] = []
        reason = "UPSTREAM_SKIPPED"
        for edge in node.incoming:
            source = self._nodes.get(edge.source)
            if source is None or source.status not in NODE_TERMINAL:
                return
            if source.status == "failed":
                reason = "UPSTREAM_FAILED"
                blockers.append(edge.source)
            elif self._is_taken(edge, source):
                taken += 1
            else:
                if source.status == "succeeded" and reason != "UPSTREAM_FAILED":
                    reason = "CONDITION_NOT_MET"
                blockers.append(edge.source)
        needed = len(node.incoming) if node.type == "parallel.join" else min(1, len(node.incoming))
        if taken >= needed and reason != "UPSTREAM_FAILED":
            self._start(node)
        else:
            self._skip(node, reason, list(dict.fromkeys(blockers)))

    def _is_taken(self, edge: Edge, source: NodeState) -> bool:
        if source.status != "succeeded":
            return False
        if edge.kind == "always":
            return True
        result = source.output is not None and source.output.get("result") is True
        return result is (edge.kind == "cond_true")

    def _skip(self, node: PlanNode, reason: str, blockers: list[str]) -> None:
        self._nodes[node.id] = NodeState(status="skipped")
        self._emit("node_skipped", node=node, payload={"reasonCode": reason, "blockers": blockers})
        self._look_behind(node)

    def _look_behind(self, node: PlanNode) -> None:
        if self._phase == "running":
            for edge in node.outgoing:
                heapq.heappush(self._ahead, self._plan.by_id[edge.target].rank)

    def _start(self, node: PlanNode) -> None:
        """The node's next attempt."""
        self._require_outputs(node)
        self._emit("node_started", node=node)
        if node.type in INLINE_TYPES:
            self._run_inline(node)
        else:
            self._attempt(node)

    def _attempt(self, node: PlanNode) -> None:
        """An execution of the node; or of the question to people whether it may run, as it would run now."""
        before = self._nodes.get(node.id, NodeState())
        attempt = before.attempt + 1
        try:
            execution = build(node, attempt, self._context, self)
        except Unbuildable as error:
            self._fail_for_good(node, error.code, str(error))
            return
        if node.approval is not None:
            ask = ask_for_node(node, execution, self._context)
            if ask.hash != before.approved:
                self._ask(node, before, [ask])
                return
        self._nodes[node.id] = _again(before, "live")
        self._dispatches.append(execution)
        self._emit("node_dispatched", node=node, payload={"requestId": execution.request_id, "kind": execution.kind})

    def _run_inline(self, node: PlanNode) -> None:
        output: dict[str, object]
        if node.condition is None:
            count = len(node.incoming)
            output = {"joined": True, "requiredIncoming": count, "satisfiedIncoming": count}
        else:
            rule = node.condition
            try:
                output = evaluate(rule.path, rule.op, rule.value.fill(self), self)
            except (TemplateValueMissing, FilledTooLarge) as error:
                self._fail_for_good(node, Code.TEMPLATE_VALUE_MISSING, str(error))
                return
        self._nodes[node.id] = NodeState(status="succeeded", output=output)
        self._emit("node_succeeded", node=node, payload=cut(output, self._context.policy.event_payload_max_chars))
        self._look_behind(node)

    # --- people ---------------------------------------------------------------------------------------------------

    def _ask(self, node: PlanNode, before: NodeState, asks: list[Ask]) -> None:
        """The node's next attempt is people's answer."""
        execution = asking(node, before.attempt + 1, asks, self._context)
        self._nodes[node.id] = _again(before, "asking")
        self._dispatches.append(execution)
        self._emit("node_waiting", node=node, payload={"reason": "APPROVAL", "requestId": execution.request_id})
        for ask in asks:
            self._emit("approval_requested", node=node, message=ask.tool, payload=requested(ask, execution.request_id))

    def _decided(self, node: PlanNode, event: NodeSucceeded | NodeFailed | NodeCancelled) -> None:
        """People have answered, or their time is over."""
        state = self._nodes[node.id]
        answer = None if isinstance(event, NodeCancelled) else answer_of(event.output)
        if answer is not None and answer.kind == "tool":
            # Whatever they decided is told to the agent.
            self._require_outputs(node)
            self._attempt(node)
            return
        decided = None if answer is None else answer.decided[0]
        if decided is not None and decided.decision == "approved":
            self._require_outputs(node)
            self._nodes[node.id] = msgspec.structs.replace(state, approved=decided.hash)
            self._attempt(node)
        elif decided is not None and decided.decision == "denied":
            message = decided.comment or "a person did not allow it"
            self._fail(node, NodeFailed(node.id, state.attempt, Code.APPROVAL_DENIED, message))
        else:
            self._fail(node, NodeFailed(node.id, state.attempt, Code.APPROVAL_EXPIRED, "nobody allowed it in time"))

    def _calls_to_ask_for(self, node: PlanNode, event: NodeFailed) -> list[Ask]:
        if event.code != Code.APPROVAL_REQUIRED:
            return []
        return ask_for_calls(node, event.attempt + 1, event.output, self._context)

    # --- results -------------------------------------------------------------------------------------------------

    def _succeed(self, node: PlanNode, output: object) -> None:
        self._nodes[node.id] = NodeState(status="succeeded", attempt=self._nodes[node.id].attempt)
        payload = cut(output, self._context.policy.event_payload_max_chars)
        if node.placement != "cloud":
            self._emit("remote_result_received", node=node, payload=payload)
        self._emit("node_succeeded", node=node, payload=payload)
        self._look_behind(node)

    def _fail(self, node: PlanNode, event: NodeFailed) -> None:
        """A failed attempt while the run goes on."""
        state, policy, now_ms = self._nodes[node.id], self._context.policy, self._context.now_ms
        refused_since = now_ms if state.refused_since is None else state.refused_since
        asks: list[Ask] = []
        try:
            asks = self._calls_to_ask_for(node, event)
        except NotAskable as error:
            event = NodeFailed(node.id, event.attempt, event.code, str(error))
        if node.type == "agent.run" and has_loop(event.output):
            # It stays in the row of that attempt, where whoever goes on with it finds it; it is nobody's output.
            event = msgspec.structs.replace(event, output=None)
        retry, run_retry = node.retry, policy.run_retry
        verdict = judge(
            Failure(
                code=event.code,
                asks_people=bool(asks),
                may_be_refused=node.schedule.on_unavailable == "wait"
                and now_ms - refused_since < node.schedule.max_wait_ms,
                has_own_budget=retry is not None,
                own_budget_left=retry is not None and state.retries_used + 1 < retry.max_attempts,
                # An attempt of the run that is planned already is shared.
                run_budget_left=self._next_attempt_at is not None or self._attempt_count < run_retry.max_attempts,
            )
        )
        failed = NodeState(
            status="backoff",
            attempt=state.attempt,
            retries_used=state.retries_used,
            error=event.code,
            error_message=event.message,
            approved=state.approved,
        )
        if verdict is Verdict.ASK:
            self._ask(node, state, asks)
            return
        if verdict is Verdict.REFUSED:
            # As long again as it has been refused so far: a doubling that needs no counter.
            pause = min(max(run_retry.backoff_ms, now_ms - refused_since), BACKOFF_CAP_MS)
            self._nodes[node.id] = msgspec.structs.replace(failed, due_at=now_ms + pause, refused_since=refused_since)
            attempts = retry.max_attempts if retry else run_retry.max_attempts
            self._emit_retried("node_retried", node, state.retries_used + 1, attempts, event.code)
            return
        self._emit_failed(node, event)
        if verdict is Verdict.NODE_RETRY and retry is not None:
            used = state.retries_used + 1
            self._nodes[node.id] = msgspec.structs.replace(
                failed, retries_used=used, due_at=now_ms + pause_ms(retry, used)
            )
            self._emit_retried("node_retried", node, used, retry.max_attempts, event.code)
        elif verdict is Verdict.RUN_RETRY:
            self._nodes[node.id] = msgspec.structs.replace(failed, status="awaiting")
            if self._next_attempt_at is None:
                self._next_attempt_at = now_ms + pause_ms(run_retry, self._attempt_count)
                self._emit_retried("run_retried", None, self._attempt_count, run_retry.max_attempts, event.code)
        else:
            self._conclude(node, event.code, event.message)

    def _fail_for_good(self, node: PlanNode, code: str, message: str) -> None:
        """A node that could not even start."""
        before = self._nodes.get(node.id, NodeState())
        self._nodes[node.id] = before
        self._emit_failed(node, NodeFailed(node.id, before.attempt, code, message))
        self._conclude(node, code, message)

    def _conclude(self, node: PlanNode, code: str, message: str | None) -> None:
        """The node has failed, and the run will."""
        attempt = self._nodes[node.id].attempt
        self._nodes[node.id] = NodeState(status="failed", attempt=attempt, error=code, error_message=message)
        if self._error is None:
            self._error, self._error_message, self._failed_node = code, message, node.id
        if node.failure_drains:
            self._look_behind(node)
        else:
            self.stop("failing")

    def _end_cancelled(self, node: PlanNode) -> None:
        self._nodes[node.id] = NodeState(status="cancelled", attempt=self._nodes[node.id].attempt, error=_CANCELLED)
        self._emit("node_failed", "error", node=node, message=_CANCELLED, payload={"code": _CANCELLED})

    # --- events --------------------------------------------------------------------------------------------------

    def _emit_failed(self, node: PlanNode, event: NodeFailed) -> None:
        limit = self._context.policy.event_payload_max_chars
        payload: dict[str, object] = {"code": event.code}
        if event.message is not None:
            payload["message"] = event.message
        if event.details is not None:
            payload["details"] = event.details
        if event.output is not None:
            payload["output"] = event.output
            if node.placement != "cloud":
                self._emit("remote_result_received", node=node, payload=cut(event.output, limit))
        self._emit("node_failed", "error", node=node, message=event.code, payload=cut(payload, limit))

    def _emit_retried(self, event_type: EventType, node: PlanNode | None, made: int, at_most: int, code: str) -> None:
        """`made`: the attempts made so far, of `at_most`."""
        payload = {"attemptCount": made, "maxAttempts": at_most, "error": code}
        self._emit(event_type, "warn", node=node, message=code, payload=payload)

    def _emit(
        self,
        event_type: EventType,
        level: Level = "info",
        *,
        node: PlanNode | None = None,
        message: str | None = None,
        payload: object = None,
    ) -> None:
        node_id, node_type = (node.id, node.type) if node else (None, None)
        self._emits.append(Emit(event_type, level, node_id, node_type, message, payload, self._attempt_count))

    # --- the scope of templates and conditions -------------------------------------------------------------------

    def input(self) -> object:
        """The run's input, decoded once."""
        if self._input is MISSING:
            self._input = _decoded(self._context.input)
        return self._input

    def output(self, node_id: str) -> object:
        """A node's output; MISSING where it did not succeed."""
        state = self._nodes.get(node_id)
        if state is None or state.status != "succeeded":
            return MISSING
        if state.output is not None:
            return state.output
        fresh = self._fresh_outputs.get(node_id, MISSING)
        return _decoded(self._context.outputs[node_id] if fresh is MISSING else fresh)

    def _require_outputs(self, node: PlanNode) -> None:
        missing = [
            node_id
            for node_id in node.references
            if (state := self._nodes.get(node_id)) is not None
            and state.status == "succeeded"
            and state.output is None
            and node_id not in self._fresh_outputs
            and node_id not in self._context.outputs
        ]
        if missing:
            raise OutputsMissing(frozenset(missing))


def _again(before: NodeState, status: NodeStatus) -> NodeState:
    """The node with its next attempt under way."""
    return NodeState(
        status=status,
        attempt=before.attempt + 1,
        retries_used=before.retries_used,
        refused_since=before.refused_since,
        approved=before.approved,
    )


def _decoded(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
