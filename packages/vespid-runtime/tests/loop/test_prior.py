"""Calls of an earlier try, read from what is left of its events."""

from __future__ import annotations

import msgspec

from vespid_runtime.loop.prior import digest, recorded_calls
from vespid_runtime.tools.event import ToolEvent


def cut(event: ToolEvent, chars: int) -> ToolEvent:
    """As a host does that keeps no more of a payload."""
    text = msgspec.json.encode(event.payload).decode()
    payload = {"truncated": True, "preview": text[:chars], "originalLength": len(text)}
    return msgspec.structs.replace(event, payload=payload)


def test_call_whose_result_was_cut_on_its_way_to_the_disk_has_finished(play, call) -> None:
    first = play()
    first.reply("", call())
    first.answer("a", "x" * 1_000)
    asked, answered = first.events
    again = play(recorded=recorded_calls([asked, cut(answered, 100)]))
    again.reply("", call())
    assert again.called == []
    assert "was cut here" in again.asked.messages[-1].content


def test_events_of_others_are_passed_over() -> None:
    others = [
        ToolEvent(kind="tool_call"),
        ToolEvent(kind="tool_call", payload={"n": "0"}),
        ToolEvent(kind="tool_call", payload={"n": 0, "tool": 3}),
        ToolEvent(kind="tool_result", payload={"n": 7, "content": "x"}),
        ToolEvent(kind="progress", payload=[1]),
    ]
    assert recorded_calls(others) == ()


def test_refusal_is_no_record(play, call) -> None:
    first = play()
    first.reply("", call("shell_run", "{}"))
    assert recorded_calls(first.events) == ()
    again = play(recorded=recorded_calls(first.events), allow=("shell.run",))
    again.reply("", call("shell_run", "{}"))
    assert again.called == ["shell.run"]


def test_long_arguments_are_shown_by_their_beginning(play, call) -> None:
    loop = play()
    loop.reply("", call(arguments='{"query":"' + "x" * 9_000 + '"}'))
    (event,) = loop.events
    assert event.payload["arguments"]["truncated"] is True
    assert len(msgspec.json.encode(event.payload)) < 10_000


def test_events_hold_no_more_than_a_host_keeps(play, call) -> None:
    loop = play()
    loop.reply("", call(arguments='{"query":"' + '\\"' * 50_000 + '"}'))
    loop.answer("a", '"\x01\n' * 100_000)
    assert all(len(msgspec.json.encode(event.payload).decode()) <= 20_000 for event in loop.events)


def test_digest_is_of_the_value_and_not_of_how_it_is_written() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
