"""What the model is given when there is more than it may be."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vespid_protocol.codes import Code
from vespid_runtime.loop.context import cost, fixed_cost
from vespid_runtime.loop.effects import Failed
from vespid_runtime.models.types import Assistant, System, ToolResult, User


def whole_cost(loop) -> int:
    return fixed_cost(loop.task) + sum(
        cost(said)
        for said in loop.asked.messages
        if not isinstance(said, System) and said != User(content="What is the plan?")
    )


def play_rounds(loop, call, count: int, size: int) -> None:
    for number in range(count):
        loop.reply("", call(arguments=f'{{"query":"{number}"}}', call_id=f"id{number}"))
        loop.answer(f"id{number}", f"{number}:" + "x" * size)


def test_oldest_rounds_go_first_whole_and_the_question_stays(play, call) -> None:
    loop = play(limits={"max_runtime_chars": 6_000})
    play_rounds(loop, call, 10, 1_000)
    messages = loop.asked.messages
    assert whole_cost(loop) <= 6_000
    assert messages[:2] == (System(content="Be short."), User(content="What is the plan?"))
    asked = [said.tool_calls[0].id for said in messages if isinstance(said, Assistant)]
    answered = [said.call_id for said in messages if isinstance(said, ToolResult)]
    assert asked == answered
    assert asked[-1] == "id9"
    assert len(asked) < 10
    assert asked == [f"id{number}" for number in range(10 - len(asked), 10)]


def test_history_goes_before_rounds_and_begins_with_a_user(play, call) -> None:
    history = tuple(
        said
        for number in range(6)
        for said in (User(content=f"q{number}" + "x" * 400), Assistant(content="a" + "x" * 400))
    )
    loop = play(history=history, limits={"max_runtime_chars": 6_500})
    play_rounds(loop, call, 2, 1_000)
    messages = loop.asked.messages
    kept = messages[1 : messages.index(User(content="What is the plan?"))]
    assert kept == history[-len(kept) :]
    assert 0 < len(kept) < len(history)
    assert isinstance(kept[0], User)
    assert len([said for said in messages if isinstance(said, ToolResult)]) == 2


def test_history_that_begins_with_an_answer_begins_with_the_next_question(play) -> None:
    loop = play(history=(Assistant(content="Hi."), User(content=""), User(content="Well?"), Assistant(content="Yes.")))
    assert [said.content for said in loop.asked.messages[1:3]] == ["Well?", "Yes."]


def test_beginning_stays_the_same_for_some_turns_after_something_was_left_out(play, call) -> None:
    loop = play(limits={"max_runtime_chars": 20_000})
    seconds = []
    for number in range(45):
        loop.reply("", call(arguments=f'{{"query":"{number}"}}', call_id=f"id{number}"))
        loop.answer(f"id{number}", "x" * 500)
        seconds.append(loop.asked.messages[2])
    changes = sum(one != other for one, other in pairwise(seconds))
    assert 0 < changes < 10


def test_what_is_left_out_is_not_remembered_either(play, call) -> None:
    loop = play(limits={"max_runtime_chars": 6_000})
    play_rounds(loop, call, 20, 1_000)
    assert sum(map(cost, loop.loop.rounds)) <= 6_000


def test_newest_results_are_cut_further_before_the_loop_gives_up(play, call) -> None:
    loop = play(limits={"max_runtime_chars": 4_000})
    loop.reply("", call(call_id="a"), call(call_id="b"), call(call_id="c"))
    loop.answer("a", "short")
    loop.answer("b", "x" * 9_000)
    loop.answer("c", "y" * 9_000)
    a, b, c = loop.asked.messages[-3:]
    assert a.content == "short"
    assert abs(len(b.content) - len(c.content)) < 10
    assert "characters left out" in b.content
    assert whole_cost(loop) <= 4_000


def test_message_that_does_not_fit_fails_before_any_model_is_asked(play) -> None:
    loop = play(message="x" * 5_000, limits={"max_runtime_chars": 4_000})
    assert loop.one(Failed).code == Code.AGENT_MAX_RUNTIME_CHARS


def test_results_without_room_fail_and_say_why(play, call) -> None:
    loop = play(limits={"max_runtime_chars": 1_000})
    loop.reply("x" * 900, call())
    loop.answer()
    assert loop.one(Failed).code == Code.AGENT_MAX_RUNTIME_CHARS
    assert "1000 characters" in loop.one(Failed).message


@pytest.mark.parametrize("size", range(3_000, 3_400, 7))
def test_no_size_of_a_result_makes_the_context_too_large(play, call, size: int) -> None:
    loop = play(limits={"max_runtime_chars": 4_000})
    play_rounds(loop, call, 2, size)
    assert whole_cost(loop) <= 4_000
