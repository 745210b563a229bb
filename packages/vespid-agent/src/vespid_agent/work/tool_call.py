"""`agent.execute` with `config.task:{type:"tool",…}`: one tool of this host, for a loop that runs elsewhere.

The one thing to know: the loop's host has asked whether the node allows the tool, and this one asks again, for itself.
What goes wrong with the call is its answer, as it is for a model; it does not fail the request.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vespid_agent.work.host_tools import HostTools, OrganizationSettings
from vespid_agent.work.job import Job, Outcome, WorkFailed, idempotency_key
from vespid_protocol.codes import Code
from vespid_protocol.frames import Execute, Level
from vespid_runtime.engines.node import NodeTools
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.loop.schema import BadSchema, problems
from vespid_runtime.tools.tool import ToolUse
from vespid_runtime.tools.toolbox import ToolAnswer, Toolbox

TYPE = "tool"


class _Part(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    pass


class _Task(_Part, frozen=True):
    type: Literal["tool"]
    tool: str
    arguments: dict[str, object] = msgspec.field(default_factory=dict)
    # Its place among the calls of its loop.
    n: int = 0


class _Config(_Part, frozen=True):
    task: _Task
    tools: NodeTools = NodeTools()


class _Node(_Part, frozen=True):
    id: str
    config: _Config


class Payload(_Part, frozen=True):
    """What `execute.payload` holds for such a task."""

    node: _Node
    run_id: str = ""
    effective_tools_allow: tuple[str, ...] = ()
    organization_settings: OrganizationSettings = OrganizationSettings()
    env: dict[str, str] = msgspec.field(default_factory=dict)


class _TypedTask(_Part, frozen=True):
    type: object = None


class _TypedConfig(_Part, frozen=True):
    task: _TypedTask | None = None


class _TypedNode(_Part, frozen=True):
    config: _TypedConfig | None = None


class _Typed(_Part, frozen=True):
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

    def __init__(self, tools: HostTools) -> None:
        self._tools = tools

    async def run(self, payload: Payload, job: Job) -> Outcome:
        """`{tool, content, isError}`. Raises WorkFailed."""
        allow = self._tools.kit.narrow(payload.effective_tools_allow)
        task, run_id = payload.node.config.task, payload.run_id or job.order.request_id.partition(":")[0]

        def emit(kind: str, level: Level, message: str | None, told: object) -> None:
            redactor = job.redactor
            masked = None if told is None else msgspec.Raw(redactor.redact_raw(msgspec.json.encode(told)))
            job.emit(kind, level, None if message is None else redactor.redact(message), masked)

        with self._tools.workdirs.use(run_id):
            scope = await self._tools.scope(
                job,
                emit,
                run_id=run_id,
                node_id=payload.node.id,
                allow=allow,
                settings=payload.organization_settings,
                auth=payload.node.config.tools.auth,
                env=payload.env,
            )
            tools = self._tools.toolbox(scope, job)
            refused = _refusal(tools, allow, task)
            use = ToolUse(n=task.n, key=idempotency_key(job.order.request_id), timeout_ms=max(job.remaining_ms, 1))
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
