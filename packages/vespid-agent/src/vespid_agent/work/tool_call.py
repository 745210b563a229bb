"""`agent.execute` with `config.task:{type:"tool",…}`: one tool of this host, for a loop that runs elsewhere.

The one thing to know: the loop's host has asked whether the node allows the tool, and this one asks again, for itself.
What goes wrong with the call is its answer, as it is for a model; it does not fail the request.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vespid_agent.work.job import Job, Outcome, WorkFailed, idempotency_key
from vespid_agent.work.node_tools import NodeTools, Part, ToolsConfig, ToolsPayload
from vespid_protocol.codes import Code
from vespid_protocol.frames import Execute, Level
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.loop.schema import BadSchema, problems
from vespid_runtime.tools.tool import ToolUse
from vespid_runtime.tools.toolbox import ToolAnswer, Toolbox

TYPE = "tool"


class _Task(Part, frozen=True):
    type: Literal["tool"]
    tool: str
    arguments: dict[str, object] = msgspec.field(default_factory=dict)
    # Its place among the calls of its loop.
    n: int = 0
    # Under which it is done for the outside world. None: under the request's own.
    key: str | None = None


class _Config(Part, frozen=True):
    task: _Task
    tools: ToolsConfig = ToolsConfig()


class _Node(Part, frozen=True):
    id: str
    config: _Config


class Payload(ToolsPayload, frozen=True, kw_only=True):
    """What `execute.payload` holds for such a task."""

    node: _Node


class _TypedTask(Part, frozen=True):
    type: object = None


class _TypedConfig(Part, frozen=True):
    task: _TypedTask | None = None


class _TypedNode(Part, frozen=True):
    config: _TypedConfig | None = None


class _Typed(Part, frozen=True):
    node: _TypedNode | None = None


_peek = msgspec.json.Decoder(_Typed).decode
_decoder = msgspec.json.Decoder(Payload)


def is_one(order: Execute) -> bool:
    """Whether this `agent.execute` asks for a tool."""
    try:
        node = _peek(order.payload).node
    except msgspec.DecodeError:
        return False
    task = None if node is None or node.config is None else node.config.task
    return task is not None and task.type == TYPE


def parse(order: Execute) -> Payload:
    """Raises WorkFailed INVALID_EXECUTE_PAYLOAD, naming the field."""
    try:
        return _decoder.decode(order.payload)
    except msgspec.DecodeError as error:
        raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, str(error)) from None


class ToolWork:
    """Calls one tool."""

    def __init__(self, tools: NodeTools) -> None:
        self._tools = tools

    async def run(self, payload: Payload, job: Job) -> Outcome:
        """`{tool, content, isError}`. Raises WorkFailed."""
        task, config = payload.node.config.task, payload.node.config.tools

        def emit(kind: str, level: Level, message: str | None, told: object) -> None:
            redactor = job.redactor
            masked = None if told is None else msgspec.Raw(redactor.redact_raw(msgspec.json.encode(told)))
            job.emit(kind, level, None if message is None else redactor.redact(message), masked)

        with self._tools.workdirs.use(payload.run(job)):
            scope = await self._tools.scope(payload, config, payload.node.id, job, emit)
            tools = self._tools.toolbox(scope, job)
            refused = _refusal(tools, self._tools.allow(payload, config), task)
            use = ToolUse(
                n=task.n, key=task.key or idempotency_key(job.order.request_id), timeout_ms=max(job.remaining_ms, 1)
            )
            answer = refused or await tools.call(task.tool, task.arguments, use)
        return Outcome.of({"tool": task.tool, "content": answer.content, "isError": answer.is_error})


def _refusal(tools: Toolbox, allow: tuple[str, ...], task: _Task) -> ToolAnswer | None:
    """Why it is not called, in the loop's own words."""
    info = next((info for info in tools.infos if info.id == task.tool), None)
    if info is None:
        return None  # the box says so
    if not is_allowed(task.tool, allow):
        return ToolAnswer(f"{Code.TOOL_NOT_ALLOWED}:{task.tool}", is_error=True)
    try:
        wrong = problems(task.arguments, info.input_schema)
    except BadSchema as error:
        return ToolAnswer(f"TOOL_UNUSABLE: {error}", is_error=True)
    return ToolAnswer("INVALID_TOOL_ARGUMENTS: " + "; ".join(wrong), is_error=True) if wrong else None
