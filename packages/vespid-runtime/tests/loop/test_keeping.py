"""What comes back from the disk, or claims to."""

from __future__ import annotations

import msgspec
import pytest

from vespid_runtime.loop.keeping import put_away, take_out
from vespid_runtime.loop.machine import State
from vespid_runtime.loop.state import Loop


def kept(loop: Loop, **other: object) -> bytes:
    document = msgspec.json.decode(put_away(loop))
    return msgspec.json.encode(document | other)


@pytest.fixture
def calling(play, call):
    """A loop with two calls outstanding, one of them answered."""
    loop = play(limits={"timeout_ms": 5_000})
    loop.reply("", call(call_id="a"), call(call_id="b"))
    loop.answer("a")
    return loop.loop


def test_loop_comes_back_as_it_was_with_its_time_by_another_clock(calling) -> None:
    back = take_out(put_away(calling), 5_000, 70_000_000)
    assert back == msgspec.structs.replace(calling, deadline_ms=70_005_000, model_deadline_ms=0)


def test_loop_that_thinks_comes_back_too(play) -> None:
    back = take_out(kept(play().loop, deadlineMs=-5, modelDeadlineMs=10**15), 1, 9)
    assert back is not None
    assert (back.state, back.deadline_ms, back.model_deadline_ms) == (State.THINKING, 10, 0)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"state":"flying"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"state":"thinking"}',
        b'{"state":"calling","turns":1}',
        b'{"state":"finished","turns":1}',
        b'{"state":"between","turns":1}',
    ],
)
def test_what_is_no_outstanding_loop_is_none(document: bytes) -> None:
    assert take_out(document, 5_000, 0) is None


@pytest.mark.parametrize(
    "other",
    [
        {"asking": None},
        {"open": []},
        {"calls": 1},
        {"calls": 7},
        {"turns": -5},
        {"calls": -2},
        {"asking": {"content": "", "toolCalls": []}},
        {"state": "thinking"},
        {"usage": {"inputTokens": "many"}},
        {"rounds": [{"role": "nobody", "content": ""}]},
    ],
)
def test_loop_that_none_of_ours_can_have_been_is_none(calling, other: dict[str, object]) -> None:
    assert take_out(kept(calling), 5_000, 0) is not None
    assert take_out(kept(calling, **other), 5_000, 0) is None


def _same_ids(document) -> None:
    document["open"][1]["id"] = document["asking"]["toolCalls"][1]["id"] = "a"


def _before_the_first(document) -> None:
    document["calls"] = 1
    for n, call in enumerate(document["open"], -1):
        call["n"] = n


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["open"].reverse(),
        lambda document: document["open"][1].update(id="other"),
        lambda document: document["open"][1].update(n=0),
        lambda document: document["open"][0]["result"].update(callId="b"),
        lambda document: document["open"].pop(),
        lambda document: document["open"][1].update(result={"callId": "b", "content": "all answered"}),
        _same_ids,
        _before_the_first,
    ],
)
def test_calls_that_do_not_belong_together_are_none(calling, change) -> None:
    document = msgspec.json.decode(put_away(calling))
    change(document)
    assert take_out(msgspec.json.encode(document), 5_000, 0) is None


def test_loop_of_a_version_that_knows_more_is_taken(calling) -> None:
    assert take_out(kept(calling, mood="good"), 5_000, 0) is not None
