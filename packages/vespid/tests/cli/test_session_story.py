"""A conversation in words."""

import io
from typing import Any

from vespid.cli.output import Output
from vespid.cli.session_story import SessionStory

FAILOVER = {"action": "session_executor_failover", "from": {"executorId": "a"}, "to": {"executorId": "b"}}


class Told:
    """What a pipe is told."""

    def __init__(self) -> None:
        self._pipe = io.StringIO()
        self.story = SessionStory(Output(as_json=False, stdout=self._pipe, env={}), {"a": "box-1"})

    def tool(self, kind: str, **data: Any) -> None:
        self.story.happened(kind, {"data": data, "message": "x", "userEventSeq": 2})

    @property
    def lines(self) -> list[str]:
        self.story.end()
        return self._pipe.getvalue().splitlines()


def test_an_answer_is_one_line_however_it_comes() -> None:
    told = Told()
    told.story.delta("Hel")
    told.story.delta("lo")
    told.story.final("Hello")
    assert told.lines == ["agent  Hello"]


def test_an_answer_that_was_not_streamed_is_told_at_its_end() -> None:
    told = Told()
    told.story.final("Hello\nyou there")
    assert told.lines == ["agent  Hello", "       you there"]


def test_a_call_and_its_result_are_one_line_also_where_text_runs_ahead() -> None:
    told = Told()
    told.tool("tool_call", tool="shell.run", callId="1", arguments={"command": "df\n-h"})
    told.story.delta("It is ")
    told.tool("tool_result", tool="shell.run", callId="1", content="40%\n\x1b[2J", isError=False)
    told.story.delta("full.")
    told.story.final("It is full.")
    assert told.lines == ['       ⚙ shell.run({"command":"df\\n-h"}) → 40%', "agent  It is full."]


def test_results_of_calls_at_once_are_told_with_their_tool() -> None:
    told = Told()
    for call in ("1", "2"):
        told.tool("tool_call", tool=f"t{call}", callId=call, arguments=None)
    for call in ("1", "2"):
        told.tool("tool_result", tool=f"t{call}", callId=call, content="no", isError=call == "2")
    assert told.lines == ["       ⚙ t1()", "       ⚙ t2()", "       ⚙ t1 → no", "       ⚙ t2 ✗ no"]


def test_text_is_not_lost_where_a_result_never_comes() -> None:
    told = Told()
    told.tool("tool_call", tool="t", callId="1", arguments=None)
    told.story.delta("Hello")
    told.story.failed("TURN_CANCELLED", "It was cancelled.")
    assert told.lines == ["       ⚙ t()", "agent  Hello", "error  TURN_CANCELLED, It was cancelled."]


def test_a_failover_is_told_by_names_and_the_answer_begins_anew() -> None:
    told = Told()
    told.story.delta("Step")
    told.story.happened("system", FAILOVER)
    told.story.restarted()
    told.story.delta("Step one")
    told.story.final("Step one")
    assert told.lines == [
        "agent  Step",
        "     ~ box-1 was lost; it goes on at b",
        "       (the answer begins anew)",
        "agent  Step one",
    ]


def test_a_model_cannot_draw_over_the_conversation() -> None:
    told = Told()
    told.story.delta("\x1b[2J\x1b]0;owned\x07a\rb")
    told.story.final("")
    assert told.lines == ["agent  a", "b"]
