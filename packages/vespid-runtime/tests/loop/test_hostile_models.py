"""Random lives of a loop with a model that does anything, tools that answer anything, and a host that loses its memory.

After each step: limits hold, what the model is given is a conversation that providers take, every call has exactly one
result before the model is asked again, and the loop that was written down and read again goes on the same.
"""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from vespid_runtime.engines.config import Output
from vespid_runtime.loop.context import cost, fixed_cost, tool_specs
from vespid_runtime.loop.effects import CallModel, CallTool, Cancelled, Failed, Finished, Say, Stop, Tell, Wanted
from vespid_runtime.loop.events import Cancel, Delta, ModelFailed, Replied, Resume, Start, Tick, Told, ToolAnswered
from vespid_runtime.loop.machine import TERMINAL, State
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.loop.state import Loop
from vespid_runtime.loop.task import LoopLimits, LoopTask, Tool
from vespid_runtime.loop.walk import step, wake_at_ms
from vespid_runtime.models.types import Assistant, ModelReply, System, ToolCall, ToolResult, User

TOOLS = (
    Tool(id="memory.search", input_schema={"type": "object", "required": ["query"]}),
    Tool(id="memory.get"),
    Tool(id="shell.run"),
)
NAMES = ("memory_search", "memory.get", "shell_run", "memory_nothing", "", "../../etc/passwd", "é" * 90)
WORDS = st.sampled_from(("", " ", "a", "word " * 40, "\ud800\x00", '{"a":1}', "```json\n[1]\n```", "é" * 700, "{"))
ARGUMENTS = st.sampled_from(
    ("{}", "", "null", '{"query":"a"}', '{"query":"b"}', '{"query":"\\ud800"}', "[" * 5_000, '{"a":1e999}', "\ud800")
) | st.integers(0, 3_000).map(lambda size: '{"query":"' + "x" * size + '"}')
CALLS = st.lists(
    st.builds(
        ToolCall,
        id=st.sampled_from(("a", "a", "b", "", "é", "call_0", "call_1", "x" * 90)),
        name=st.sampled_from(NAMES),
        arguments=ARGUMENTS,
        opaque=st.none() | st.just("sig"),
    ),
    max_size=4,
).map(tuple)
REPLIES = st.builds(
    ModelReply, content=WORDS, tool_calls=CALLS, stop_reason=st.sampled_from(("stop", "tool_calls", "length"))
)
RESULTS = WORDS | st.integers(0, 20_000).map(lambda size: "\x01" * size)
LIMITS = st.builds(
    LoopLimits,
    max_turns=st.integers(1, 12),
    max_tool_calls=st.integers(0, 20),
    timeout_ms=st.just(10_000),
    model_timeout_ms=st.sampled_from((500, 60_000)),
    max_output_chars=st.sampled_from((1, 50, 2_000)),
    max_runtime_chars=st.sampled_from((900, 2_500, 8_000)),
    max_result_chars=st.sampled_from((10, 300, 4_000)),
)
HISTORY = st.lists(
    st.builds(User, content=WORDS.filter(str.isascii)) | st.builds(Assistant, content=WORDS.filter(str.isascii)),
    max_size=8,
).map(tuple)


def decoded(loop: Loop) -> Loop:
    return msgspec.json.decode(msgspec.json.encode(loop), type=Loop)


class HostileModel(RuleBasedStateMachine):
    """The host of one loop, which believes nothing."""

    @initialize(limits=LIMITS, history=HISTORY, output=st.sampled_from(("text", "json")))
    def start(self, limits: LoopLimits, history: tuple[User | Assistant, ...], output: str) -> None:
        self.task = LoopTask(
            message="Go.",
            system="Be good.",
            history=history,
            tools=TOOLS,
            allow=("memory.*",),
            limits=limits,
            output=Output(mode=output),
        )
        self.loop, self.now = Loop(), 5_000
        self.model_calls = self.tool_calls = self.ends = 0
        # In this turn.
        self.said = 0
        self.open: set[str] = set()
        self.places: set[int] = set()
        self.tell(Start(now_ms=self.now))

    def tell(self, told: Told) -> None:
        before = self.loop
        outcome = step(self.task, before, told)
        assert step(self.task, decoded(before), told) == outcome
        assert decoded(outcome.loop) == outcome.loop
        self.loop = outcome.loop
        is_resumed = isinstance(told, Resume)
        if isinstance(told, ToolAnswered):
            self.open.discard(told.call_id)
        for wanted in outcome.wanted:
            msgspec.json.encode(wanted)
            self.judge(wanted, is_resumed)
        self.judge_loop(before, told)

    def judge(self, wanted: Wanted, is_resumed: bool) -> None:
        limits = self.task.limits
        assert not self.ends
        match wanted:
            case CallModel():
                self.model_calls += not is_resumed
                assert self.model_calls <= limits.max_turns
                assert wanted.turn == self.model_calls
                assert 0 < wanted.timeout_ms <= limits.model_timeout_ms
                assert not self.open
                self.said = 0
                self.judge_conversation(wanted)
            case CallTool():
                if is_resumed:
                    assert wanted.call_id in self.open
                    return
                assert is_allowed(wanted.tool, self.task.allow)
                assert wanted.call_id not in self.open
                assert wanted.n not in self.places
                self.places.add(wanted.n)
                self.open.add(wanted.call_id)
                self.tool_calls += 1
                assert self.tool_calls <= limits.max_tool_calls
            case Say():
                self.said += len(wanted.text)
                assert wanted.text
                assert self.said <= limits.max_output_chars
            case Finished():
                assert len(wanted.content) <= limits.max_output_chars
                self.ends += 1
            case Failed() | Cancelled():
                self.ends += 1
            case Tell() | Stop():
                pass

    def judge_conversation(self, asked: CallModel) -> None:
        """What no provider would refuse, and no larger than it may be."""
        first, *said = asked.messages
        assert isinstance(first, System)
        assert isinstance(said[0], User)
        assert User(content="Go.") in said
        specs = sum(len(msgspec.json.encode(spec).decode()) for spec in tool_specs(self.task))
        assert specs + sum(map(cost, asked.messages)) <= self.task.limits.max_runtime_chars
        assert fixed_cost(self.task) <= self.task.limits.max_runtime_chars
        waiting: list[str] = []
        seen: set[str] = set()
        for message in said:
            match message:
                case ToolResult():
                    assert waiting.pop(0) == message.call_id
                case Assistant():
                    assert not waiting
                    assert message.content.strip() or message.tool_calls
                    for call in message.tool_calls:
                        assert call.id not in seen
                        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", call.name)
                        assert isinstance(msgspec.json.decode(call.arguments), dict)
                        seen.add(call.id)
                    waiting = [call.id for call in message.tool_calls]
                case User():
                    assert not waiting
                    assert message.content.strip()
        assert not waiting

    def judge_loop(self, before: Loop, told: Told) -> None:
        assert self.loop.state not in (State.BETWEEN, State.READY)
        assert (self.loop.state in TERMINAL) == (self.ends == 1)
        if self.loop.state in TERMINAL:
            assert wake_at_ms(self.loop) is None
        if before.state in TERMINAL:
            assert self.loop == before
        if self.loop.state is State.CALLING:
            assert {call.id for call in self.loop.unanswered} == self.open
            assert self.open
        if before.state not in TERMINAL and before.deadline_ms and told.now_ms >= before.deadline_ms:
            stale = isinstance(told, Replied | Delta | ModelFailed | ToolAnswered)
            assert self.loop.state in TERMINAL or stale

    @rule(reply=REPLIES)
    def reply(self, reply: ModelReply) -> None:
        self.tell(Replied(now_ms=self.now, turn=self.loop.turns, reply=reply))

    @rule(content=WORDS, count=st.integers(1, 3))
    @precondition(lambda self: self.loop.state is State.THINKING)
    def well_formed_calls(self, content: str, count: int) -> None:
        calls = tuple(ToolCall(id=f"c{n}", name="memory_get", arguments="{}") for n in range(count))
        self.reply(ModelReply(content=content, tool_calls=calls))

    @rule(reply=REPLIES, turn=st.integers(-1, 3))
    def stale_reply(self, reply: ModelReply, turn: int) -> None:
        before = self.loop
        if turn != before.turns:
            self.tell(Replied(now_ms=self.now, turn=turn, reply=reply))
            assert self.loop == before

    @rule(text=WORDS)
    def delta(self, text: str) -> None:
        self.tell(Delta(now_ms=self.now, turn=self.loop.turns, text=text))

    @rule(content=RESULTS, is_error=st.booleans(), data=st.data())
    @precondition(lambda self: self.open)
    def result(self, content: str, is_error: bool, data: st.DataObject) -> None:
        call_id = data.draw(st.sampled_from(sorted(self.open)))
        self.tell(ToolAnswered(now_ms=self.now, call_id=call_id, content=content, is_error=is_error))

    @rule(call_id=st.sampled_from(("", "zz", "\ud800")), content=RESULTS)
    def result_of_no_call(self, call_id: str, content: str) -> None:
        before = self.loop
        self.tell(ToolAnswered(now_ms=self.now, call_id=call_id, content=content))
        assert self.loop == before

    @rule(by=st.sampled_from((1, 100, 700)))
    def time_passes(self, by: int) -> None:
        self.now += by
        self.tell(Tick(now_ms=self.now))

    @rule()
    @precondition(lambda self: self.loop.turns > 0)
    def host_loses_its_memory(self) -> None:
        self.loop = decoded(self.loop)
        self.tell(Resume(now_ms=self.now))

    @rule(really=st.integers(0, 9))
    def ends_otherwise(self, really: int) -> None:
        if really == 0:
            self.tell(Cancel(now_ms=self.now))
        elif really == 1:
            self.tell(ModelFailed(now_ms=self.now, turn=self.loop.turns, code="LLM_TIMEOUT", message="slow"))


@pytest.mark.timeout(300)
def test_hostile_models_break_no_rule() -> None:
    run_state_machine_as_test(
        HostileModel,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
