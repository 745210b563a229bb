"""The loop from its start to its ends: turns, tool calls, limits, what is said, and being taken up again."""

from __future__ import annotations

import msgspec
import pytest

from vespid_protocol.codes import Code
from vespid_protocol.machine import IllegalTransition
from vespid_runtime.engines.config import Output
from vespid_runtime.loop.effects import CallModel, CallTool, Cancelled, Failed, Finished, Say, Stop, Tell
from vespid_runtime.loop.events import Cancel, Resume, Start, Tick, ToolAnswered
from vespid_runtime.loop.machine import ROWS, TERMINAL, Event, State
from vespid_runtime.loop.prior import recorded_calls
from vespid_runtime.loop.state import Loop
from vespid_runtime.loop.task import Tool
from vespid_runtime.loop.walk import step, wake_at_ms
from vespid_runtime.models.types import Assistant, System, ToolResult, User


def test_every_state_is_reached_and_every_end_is_final() -> None:
    assert {State.READY, *(row.target for row in ROWS if row.target)} == set(State)
    assert not [row for row in ROWS if row.target is not None and TERMINAL & set(row.sources)]


# --- turns -----------------------------------------------------------------------------------------------------------


def test_model_is_asked_with_system_prompt_history_and_message(play) -> None:
    history = (User(content="Hello"), Assistant(content="Hello."))
    asked = play(history=history).asked
    assert asked.messages == (System(content="Be short."), *history, User(content="What is the plan?"))
    assert [spec.name for spec in asked.tools] == ["memory_search", "connector_github_issue_create"]


def test_model_is_given_no_system_prompt_where_there_is_none(play) -> None:
    assert play(system="").asked.messages == (User(content="What is the plan?"),)


def test_reply_without_calls_is_the_answer(play) -> None:
    loop = play()
    loop.reply("Rest.")
    end = loop.one(Finished)
    assert (end.content, end.usage.total_tokens, loop.loop.state) == ("Rest.", 12, State.FINISHED)


def test_result_goes_back_to_the_model_with_its_call(play, call) -> None:
    loop = play()
    loop.reply("Let me look.", call())
    wanted = loop.one(CallTool)
    assert (wanted.tool, wanted.arguments, wanted.key, wanted.n) == ("memory.search", {"query": "plan"}, "tool:0", 0)
    loop.answer("a", "rest")
    assert loop.asked.turn == 2
    assert loop.asked.messages[-2:] == (
        Assistant(content="Let me look.", tool_calls=(call(),)),
        ToolResult(call_id="a", content="rest"),
    )


def test_model_is_asked_again_only_when_every_call_has_its_result_in_any_order(play, call) -> None:
    loop = play()
    loop.reply("", call(call_id="a"), call(call_id="b"), call("connector_github_issue_create", "{}", "c"))
    assert len(loop.of(CallTool)) == 3
    loop.answer("c", "3")
    loop.answer("a", "1")
    assert not loop.of(CallModel)
    loop.answer("b", "2")
    assert [said.content for said in loop.asked.messages[-3:]] == ["1", "2", "3"]


def test_call_and_result_are_told_as_a_pair_of_events(play, call) -> None:
    loop = play()
    loop.reply("", call())
    asked = loop.one(Tell)
    loop.answer("a", "no such thing", is_error=True)
    answered = loop.one(Tell)
    assert (asked.kind, asked.level, asked.payload["arguments"]) == ("tool_call", "info", {"query": "plan"})
    assert (answered.kind, answered.level, answered.payload["content"]) == ("tool_result", "warn", "no such thing")
    assert asked.payload["n"] == answered.payload["n"] == 0


def test_result_of_a_call_that_nobody_made_or_a_second_one_is_passed_over(play, call) -> None:
    loop = play()
    loop.reply("", call(call_id="a"), call(call_id="b"))
    loop.answer("zzz")
    assert loop.wanted == ()
    loop.answer("a", "first")
    loop.answer("a", "second")
    assert loop.wanted == ()
    loop.answer("b")
    assert [said.content for said in loop.asked.messages[-2:]] == ["first", "found"]


def test_reply_to_an_earlier_turn_is_passed_over(play, call) -> None:
    loop = play()
    loop.reply("", call())
    loop.answer()
    before = loop.loop
    loop.reply("late", turn=1)
    loop.delta("late", turn=1)
    assert (loop.loop, loop.wanted) == (before, ())


def test_model_that_cannot_be_had_fails_with_its_code(play) -> None:
    loop = play()
    loop.fail("OPENAI_REQUEST_FAILED:500", "it is down")
    end = loop.one(Failed)
    assert (end.code, end.message) == ("OPENAI_REQUEST_FAILED:500", "it is down")


def test_starting_twice_is_refused_and_changes_nothing(play) -> None:
    loop = play()
    with pytest.raises(IllegalTransition):
        step(loop.task, loop.loop, Start(now_ms=1))


# --- limits ----------------------------------------------------------------------------------------------------------


def test_model_that_never_stops_ends_at_its_turns_and_starts_nothing_in_vain(play, call) -> None:
    loop = play(limits={"max_turns": 3})
    for turn in range(3):
        loop.reply("", call(arguments=f'{{"query":"{turn}"}}'))
        if turn < 2:
            loop.answer(loop.one(CallTool).call_id)
    assert loop.one(Failed).code == Code.AGENT_MAX_TURNS
    assert len(loop.called) == 2


def test_model_is_not_asked_beyond_its_turns_to_speak_or_to_mend(play) -> None:
    for text, output in (("", Output()), ("no JSON", Output(mode="json"))):
        loop = play(limits={"max_turns": 1}, output=output)
        loop.reply(text)
        assert loop.one(Failed).code == Code.AGENT_MAX_TURNS


def test_reply_with_more_calls_than_are_left_starts_none_of_them(play, call) -> None:
    loop = play(limits={"max_tool_calls": 2})
    loop.reply("", call())
    loop.answer()
    loop.reply("", call(call_id="b"), call(call_id="c"))
    assert loop.one(Failed).code == Code.AGENT_MAX_TOOL_CALLS
    assert (loop.of(CallTool), len(loop.called)) == ([], 1)


def test_refused_calls_count_as_calls(play, call) -> None:
    loop = play(limits={"max_tool_calls": 2})
    loop.reply("", call("nothing"), call("nothing", call_id="b"))
    loop.reply("", call("nothing"))
    assert loop.one(Failed).code == Code.AGENT_MAX_TOOL_CALLS


def test_model_is_told_when_it_may_call_no_more(play, call) -> None:
    loop = play(limits={"max_tool_calls": 1})
    loop.reply("", call())
    loop.answer()
    assert "may not call any more tools" in loop.asked.messages[-1].content
    loop = play(limits={"max_turns": 2})
    loop.reply("", call())
    loop.answer()
    assert "last turn" in loop.asked.messages[-1].content


def test_loop_without_tool_calls_shows_no_tools(play) -> None:
    assert play(limits={"max_tool_calls": 0}).asked.tools == ()


def test_time_of_the_loop_ends_it_wherever_it_is(play, call) -> None:
    thinking, calling = play(limits={"timeout_ms": 500}), play(limits={"timeout_ms": 500})
    calling.reply("", call())
    for loop in (thinking, calling):
        assert wake_at_ms(loop.loop) == 1_500
        loop.tell(Tick(now_ms=1_499))
        assert loop.wanted == ()
        loop.tell(Tick(now_ms=1_500))
        assert loop.one(Failed).code == Code.NODE_EXECUTION_TIMEOUT
        assert loop.of(Stop)


@pytest.mark.parametrize("what", ["reply", "result", "resume", "delta"])
def test_nothing_is_taken_after_the_time_is_up(play, call, what: str) -> None:
    loop = play(limits={"timeout_ms": 500})
    if what == "result":
        loop.reply("", call())
    loop.now = 1_500
    match what:
        case "reply":
            loop.reply("too late")
        case "delta":
            loop.delta("too late")
        case "result":
            loop.answer()
        case _:
            loop.tell(Resume(now_ms=loop.now))
    assert loop.one(Failed).code == Code.NODE_EXECUTION_TIMEOUT


def test_model_that_does_not_answer_ends_with_a_code_of_its_own(play) -> None:
    loop = play(limits={"timeout_ms": 5_000, "model_timeout_ms": 400})
    assert (loop.asked.timeout_ms, wake_at_ms(loop.loop)) == (400, 1_400)
    loop.tell(Tick(now_ms=1_400))
    assert loop.one(Failed).code == Code.LLM_TIMEOUT


def test_model_call_has_no_more_time_than_the_loop(play, call) -> None:
    loop = play(limits={"timeout_ms": 500, "model_timeout_ms": 400})
    loop.reply("", call())
    assert loop.one(CallTool).timeout_ms == 500
    loop.now = 1_300
    loop.answer()
    assert loop.asked.timeout_ms == 200


def test_answer_is_cut_at_its_limit_and_says_so(play) -> None:
    loop = play(limits={"max_output_chars": 10})
    loop.reply("0123456789abc")
    end = loop.one(Finished)
    assert (end.content, end.stop_reason) == ("0123456789", "length")


def test_long_result_keeps_head_and_tail_and_is_marked(play, call) -> None:
    loop = play(limits={"max_result_chars": 400})
    loop.reply("", call())
    loop.answer("a", "BEGIN" + "x" * 10_000_000 + "END")
    shown = loop.asked.messages[-1].content
    assert shown.startswith("BEGINx")
    assert shown.endswith("xEND")
    assert "characters left out" in shown
    assert len(shown) <= 400


# --- what the model does wrong ---------------------------------------------------------------------------------------


def refusal(loop, asked) -> str:
    """What the model is told about one call, which is not carried out."""
    loop.reply("", asked)
    assert not loop.of(CallTool)
    assert [tell.kind for tell in loop.of(Tell)] == ["tool_call", "tool_result"]
    assert loop.asked.messages[-1].is_error
    return loop.asked.messages[-1].content


def test_tool_that_is_not_allowed_is_told_to_the_model_and_in_an_event(play, call) -> None:
    loop = play()
    assert refusal(loop, call("shell_run", "{}")) == "TOOL_NOT_ALLOWED:shell.run"
    assert loop.of(Tell)[1].message == "TOOL_NOT_ALLOWED:shell.run"
    assert loop.of(Tell)[1].level == "warn"


def test_tool_that_is_not_allowed_is_said_before_its_arguments_are_looked_at(play, call) -> None:
    assert refusal(play(), call("shell_run", "not json")) == "TOOL_NOT_ALLOWED:shell.run"


def test_tool_that_does_not_exist_is_told_with_those_that_do(play, call) -> None:
    told = refusal(play(), call("rm -rf /" * 1_000))
    assert told.startswith("UNKNOWN_TOOL")
    assert "memory_search" in told
    assert "shell_run" not in told
    assert len(told) <= 2_000


def test_refusal_is_bounded_however_many_tools_there_are(play, call) -> None:
    tools = tuple(Tool(id=f"mcp.server.tool{number}") for number in range(500))
    assert len(refusal(play(tools=tools, allow=("mcp.*",)), call("nothing"))) <= 2_000


@pytest.mark.parametrize("text", ["\\ud800\\u0000", "\ud800\x00", "\\ud800\x00"])
def test_arguments_with_what_no_disk_takes_are_mended(play, call, text: str) -> None:
    loop = play()
    loop.reply("", call(arguments=f'{{"query":"a{text}b"}}'))
    assert loop.one(CallTool).arguments == {"query": "a\ufffd\ufffdb"}


@pytest.mark.parametrize(
    "arguments",
    ["nonsense", "[]", "{}", '{"query":1}', '{"query":"a","other":1}', '{"query":"' + "x" * 300_000 + '"}', "[" * 9999],
)
def test_arguments_that_do_not_fit_are_told_to_the_model(play, call, arguments: str) -> None:
    told = refusal(play(), call(arguments=arguments))
    assert told.startswith("INVALID_TOOL_ARGUMENTS")
    assert len(told) <= 2_000


def test_arguments_that_do_not_fit_say_where(play, call) -> None:
    assert "limit: " in refusal(play(), call(arguments='{"query":"a","limit":"ten"}'))


def test_tool_whose_schema_is_none_is_not_called(play, call) -> None:
    tool = Tool(id="mcp.odd.tool", input_schema={"type": "objekt"})
    assert refusal(play(tools=(tool,), allow=("mcp.*",)), call("mcp_odd_tool", "{}")).startswith("TOOL_UNUSABLE")


def test_what_goes_back_to_the_provider_is_fit_for_it(play, call) -> None:
    loop = play()
    loop.reply("", call("rm -rf /", "broken", ""), call("x.y", "[1]", "same"), call("x" * 200, "{}", "same"))
    asked = loop.asked.messages[-4]
    assert [said.name for said in asked.tool_calls] == ["rm_-rf__", "x_y", "x" * 64]
    assert [said.arguments for said in asked.tool_calls] == ["{}", "{}", "{}"]
    assert [said.id for said in asked.tool_calls] == ["call_0", "same", "call_2"]
    assert [said.call_id for said in loop.asked.messages[-3:]] == ["call_0", "same", "call_2"]


def test_id_of_an_earlier_turn_is_not_taken_again(play, call) -> None:
    loop = play()
    loop.reply("", call())
    loop.answer()
    loop.reply("", call())
    assert loop.one(CallTool).call_id == "call_1"


def test_model_that_says_nothing_is_asked_to_speak_and_then_given_up(play) -> None:
    loop = play()
    loop.reply("  ")
    assert loop.asked.messages[-1] == User(content="You answered nothing. Call a tool, or give your answer.")
    loop.reply("")
    assert loop.asked.turn == 3
    loop.reply("")
    assert loop.one(Failed).code == Code.AGENT_NO_PROGRESS


def test_model_that_repeats_a_call_is_refused_and_then_given_up(play, call) -> None:
    loop = play()
    for _ in range(4):
        loop.reply("", call())
        loop.answer(loop.one(CallTool).call_id, "the same")
    for _ in range(2):
        loop.reply("", call())
        assert not loop.of(CallTool)
        assert loop.asked.messages[-1].content.startswith("REPEATED_CALL")
    loop.reply("", call())
    assert loop.one(Failed).code == Code.AGENT_NO_PROGRESS
    assert "memory.search" in loop.one(Failed).message


def test_repeated_call_whose_answers_differ_is_no_repetition(play, call) -> None:
    loop = play()
    for number in range(20):
        loop.reply("", call())
        loop.answer(loop.one(CallTool).call_id, f"{number} %")
    loop.reply("Done.")
    assert loop.of(Finished)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_text_is_said_once_whether_it_came_in_pieces_or_not(play, call) -> None:
    loop = play()
    loop.delta("Let me ")
    loop.reply("Let me look.", call())
    loop.answer()
    loop.reply("Rest.")
    assert [said.text for said in loop.all if isinstance(said, Say)] == ["Let me ", "look.", "Rest."]


def test_no_more_is_said_than_an_answer_may_have(play) -> None:
    loop = play(limits={"max_output_chars": 10})
    loop.delta("x" * 8)
    loop.delta("x" * 8)
    loop.reply("x" * 100)
    assert loop.said == "x" * 10


def test_json_answer_is_not_said(play, call) -> None:
    loop = play(output=Output(mode="json"))
    loop.delta("Let me")
    loop.reply("Let me look.", call())
    loop.answer()
    loop.delta("{")
    loop.reply("{}")
    assert loop.said == "Let me look."
    assert loop.one(Finished).value == {}


# --- ends and returns ------------------------------------------------------------------------------------------------


def test_cancel_stops_what_runs_and_nothing_follows(play, call) -> None:
    loop = play()
    loop.reply("", call())
    loop.tell(Cancel(now_ms=1_001))
    assert [type(wanted) for wanted in loop.wanted] == [Stop, Cancelled]
    for told in (ToolAnswered(now_ms=1_002, call_id="a", content="late"), Tick(now_ms=10**9), Cancel(now_ms=1_003)):
        assert loop.tell(told) == ()
    assert loop.loop.state is State.CANCELLED


def test_ended_loop_keeps_nothing_that_was_said(play, call) -> None:
    loop = play()
    loop.reply("", call())
    loop.answer()
    loop.reply("Rest.")
    assert (loop.loop.rounds, loop.loop.history, loop.loop.open) == ((), (), ())


def test_loop_from_the_disk_asks_the_model_the_same_again(play, call) -> None:
    loop = play()
    loop.reply("", call())
    loop.answer()
    asked = loop.asked
    loop.loop = msgspec.json.decode(msgspec.json.encode(loop.loop), type=Loop)
    loop.tell(Resume(now_ms=loop.now))
    assert loop.asked == asked


def test_loop_from_the_disk_calls_only_tools_without_a_result(play, call) -> None:
    loop = play()
    loop.reply("", call(call_id="a"), call(call_id="b"))
    second = loop.of(CallTool)[1]
    loop.answer("a")
    loop.loop = msgspec.json.decode(msgspec.json.encode(loop.loop), type=Loop)
    loop.tell(Resume(now_ms=loop.now))
    assert loop.wanted == (second,)


def test_call_that_finished_in_an_earlier_try_is_answered_by_its_record(play, call) -> None:
    first = play()
    first.reply("", call())
    first.answer("a", "rest")
    again = play(recorded=recorded_calls(first.events))
    again.reply("", call(arguments='{ "query" : "plan" }', call_id="other"))
    assert again.called == []
    assert again.events == ()
    assert again.asked.messages[-1] == ToolResult(call_id="other", content="rest")


def test_call_that_had_not_finished_is_made_again_under_its_key(play, call) -> None:
    first = play()
    first.reply("", call(), call("connector_github_issue_create", '{"title":"x"}', "b"))
    first.answer("a", "rest")
    again = play(recorded=recorded_calls(first.events))
    again.reply("", call(), call("connector_github_issue_create", '{"title":"x"}', "b"))
    wanted = again.one(CallTool)
    assert (wanted.tool, wanted.key) == ("connector.github.issue.create", "tool:1")
    again.answer("b", "made")
    assert [said.content for said in again.asked.messages[-2:]] == ["rest", "made"]


def test_another_call_in_the_place_of_a_recorded_one_is_made_under_another_key(play, call) -> None:
    first = play()
    first.reply("", call())
    first.answer("a", "rest")
    again = play(recorded=recorded_calls(first.events))
    again.reply("", call(arguments='{"query":"else"}'))
    assert again.one(CallTool).key.startswith("tool:0:")
    third = play(recorded=recorded_calls([*first.events, *again.events]))
    third.reply("", call(arguments='{"query":"else"}'))
    assert third.one(CallTool).key == again.of(CallTool)[0].key
    third.answer("a", "other")
    assert third.asked.messages[-1].content == "other"


def test_same_call_in_another_place_is_made(play, call) -> None:
    first = play()
    first.reply("", call())
    first.answer("a", "rest")
    again = play(recorded=recorded_calls(first.events))
    again.reply("", call(arguments='{"query":"else"}', call_id="x"), call(call_id="y"))
    assert again.called == ["memory.search", "memory.search"]


def test_recorded_call_that_is_not_allowed_any_more_is_refused(play, call) -> None:
    first = play()
    first.reply("", call())
    first.answer("a", "rest")
    again = play(recorded=recorded_calls(first.events), allow=())
    again.reply("", call())
    assert again.asked.messages[-1].content == "TOOL_NOT_ALLOWED:memory.search"


def test_every_event_has_a_row() -> None:
    assert {row.event for row in ROWS} == set(Event)
