"""The tool calls of one turn of a program: looked at, counted, carried out and told, as our own loop does it.

There are two kinds. *Ours* come over the bridge and are carried out here. The program's *own* (it reads and edits files
by itself) are only told, from what it prints of them; they are all under one permission, `shell.run`, for they can do
no more than a command could. The one thing to know: a call of ours that an earlier try of the turn had answered is
answered by that record, and every call has the idempotency key of its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

import msgspec

from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineError, TurnOutput, TurnRequest
from vespid_runtime.loop.calls import look_through, refusal
from vespid_runtime.loop.cutting import cut_middle
from vespid_runtime.loop.effects import Tell
from vespid_runtime.loop.names import is_allowed, name_tools
from vespid_runtime.loop.prior import digest, key, tell_call, tell_result
from vespid_runtime.loop.state import Call, Loop
from vespid_runtime.loop.task import LoopTask, Tool
from vespid_runtime.models.types import ModelReply, ToolCall, ToolResult
from vespid_runtime.tools.tool import ToolUse
from vespid_runtime.tools.toolbox import ToolAnswer

SHELL = "shell.run"


class Calls:
    """Of one turn. `over`: told the first reason for which the program is to be ended."""

    def __init__(
        self,
        task: LoopTask,
        request: TurnRequest,
        output: TurnOutput,
        over: Callable[[EngineError], None],
    ) -> None:
        self._task = task
        self._request = request
        self._output = output
        self._over = over
        self._deadline = monotonic() + task.limits.timeout_ms / 1000
        self._count = 0
        self._ids: set[str] = set()
        # The program's own that have not ended.
        self._open: dict[str, Call] = {}
        # Names that the program gives its own tools, beside those under our ids.
        self._own_names: dict[str, str] = {}

    @property
    def may_work(self) -> bool:
        """Whether the program may use its own tools for files: whoever may run commands may."""
        return SHELL in self._request.tools and is_allowed(SHELL, self._task.allow)

    def offered(self) -> list[tuple[str, Tool]]:
        """Our tools that the model may call, by the names that it knows."""
        if self._task.limits.max_tool_calls == 0:
            return []
        names = name_tools(tool.id for tool in self._task.tools)
        return [(names[tool.id], tool) for tool in self._task.tools if is_allowed(tool.id, self._task.allow)]

    # --- ours --------------------------------------------------------------------------------------------------------

    async def call(self, name: str, arguments: object, call_id: str) -> ToolAnswer:
        """Raises nothing but asyncio.CancelledError."""
        n = self._next()
        if n is None:
            limit = self._task.limits.max_tool_calls
            return ToolAnswer(f"{Code.AGENT_MAX_TOOL_CALLS}: no more than {limit} calls", is_error=True)
        asked = ToolCall(id=self._id(call_id, n), name=name, arguments=msgspec.json.encode(arguments).decode())
        _, (call,) = look_through(self._task, Loop(calls=n), ModelReply(content="", tool_calls=(asked,)))
        if call.result is None and self._request.approvals.rule(call.tool) is not None:
            call = refusal(call, f"{Code.APPROVAL_REQUIRED}: this engine cannot wait for a person")
        if call.result is not None:
            if call.is_refused:
                self._tell(tell_call(call))
                self._tell(tell_result(call, call.result))
            return ToolAnswer(call.result.content, call.result.is_error)
        self._tell(tell_call(call))
        answer = await self._request.tools.call(
            call.tool, msgspec.json.decode(call.arguments, type=dict[str, object]), self._use(call)
        )
        content = cut_middle(answer.content, self._task.limits.max_result_chars)
        result = ToolResult(call_id=call.id, content=content, is_error=answer.is_error)
        self._tell(tell_result(call, result))
        return ToolAnswer(content, answer.is_error)

    def _use(self, call: Call) -> ToolUse:
        own = key(self._task.recorded, call.n, call.tool, call.digest)
        left_ms = int((self._deadline - monotonic()) * 1000)
        return ToolUse(n=call.n, key=f"{self._request.idempotency_key}:{own}", timeout_ms=max(left_ms, 1))

    # --- the program's own -------------------------------------------------------------------------------------------

    def began(self, call_id: str, own_name: str, arguments: Mapping[str, object]) -> None:
        """The program uses a tool of its own."""
        n = self._next()
        if n is None or call_id in self._open:
            return
        text = msgspec.json.encode(arguments).decode()
        call = Call(n=n, id=self._id(call_id, n), tool=SHELL, arguments=text, digest=digest(arguments))
        self._open[call_id] = call
        self._own_names[call.id] = own_name
        self._tell(tell_call(call))

    def ended(self, call_id: str, content: str, *, is_error: bool) -> None:
        """What the program's own tool answered it. Harmless for calls that are none of its own."""
        call = self._open.pop(call_id, None)
        if call is None:
            return
        if not self.may_work:
            call = refusal(call, f"{Code.TOOL_NOT_ALLOWED}:{SHELL}")
        text = cut_middle(content, self._task.limits.max_result_chars)
        result = call.result or ToolResult(call_id=call.id, content=text, is_error=is_error)
        self._tell(tell_result(call, result))

    def close(self) -> None:
        """The program has ended: nobody knows how the rest of its own calls did."""
        for call_id in list(self._open):
            self.ended(call_id, "the program ended before it said what came of this", is_error=True)

    # --- both --------------------------------------------------------------------------------------------------------

    def _next(self) -> int | None:
        """The call's place; None beyond the limit, and then the turn is over."""
        if self._count >= self._task.limits.max_tool_calls:
            limit = self._task.limits.max_tool_calls
            self._over(EngineError(Code.AGENT_MAX_TOOL_CALLS, f"the model asked for more than {limit} tool calls"))
            return None
        self._count += 1
        return self._count - 1

    def _id(self, call_id: str, n: int) -> str:
        """Programs may give one id twice."""
        unique = call_id if call_id and call_id not in self._ids else f"call_{n}"
        self._ids.add(unique)
        return unique

    def _tell(self, tell: Tell) -> None:
        payload = tell.payload
        name = self._own_names.get(str(payload.get("callId")))
        if name is not None:
            payload = payload | {"cliTool": name}
        self._output.event(tell.kind, tell.level, tell.message, payload)
