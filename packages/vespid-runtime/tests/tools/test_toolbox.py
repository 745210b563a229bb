"""Whatever a tool does, its call answers, within its time; and being cancelled gets through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from vespid_runtime import stopping
from vespid_runtime.tools.tool import ToolError, ToolUse
from vespid_runtime.tools.toolbox import ANSWER_MAX_CHARS, Toolbox

SECRET = "hunter2-canary-4411"
USE = ToolUse(n=0, key="run-1:n1:tool:0", timeout_ms=60_000)
SOON = ToolUse(n=0, key="run-1:n1:tool:0", timeout_ms=20)


@dataclass
class FakeTool:
    work: Callable[[], Awaitable[object]]
    id: str = "look"
    description: str = "Look."
    input_schema: dict[str, object] = field(default_factory=lambda: {"type": "object"})
    secrets: tuple[str, ...] = (SECRET,)

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        return await self.work()


async def answer(value: object, use: ToolUse = USE) -> tuple[str, bool]:
    """What the model is told of a tool that answers this, or raises it."""

    async def work() -> object:
        if isinstance(value, BaseException):
            raise value
        return value

    told = await Toolbox([FakeTool(work)]).call("look", {}, use)
    return told.content, told.is_error


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "STOP_GRACE_S", 0.05)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", "text"),
        ("", ""),
        ({"a": [1, None, True]}, '{"a":[1,null,true]}'),
        (None, "null"),
        (float("nan"), "null"),
        (10**40, str(10**40)),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00Z"'),
        ("a\x00b\ud800c", "a\ufffdb\ufffdc"),
        ({"a": "b\ud800c"}, '{"a": "b\\ufffdc"}'),
    ],
)
async def test_answer_is_told_as_text(value: object, content: str) -> None:
    assert await answer(value) == (content, False)


@pytest.mark.parametrize("value", [object(), {None: 1}, {(1, 2): 3}, {"a": ["\ud800", object()]}])
async def test_answer_that_is_not_json_is_a_failure_that_says_so(value: object) -> None:
    content, is_error = await answer(value)
    assert (content.startswith("NODE_EXECUTION_FAILED: the tool answered something that is not JSON"), is_error) == (
        True,
        True,
    )


async def test_answer_that_contains_itself_is_a_failure() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert (await answer(endless))[1]


@pytest.mark.parametrize(
    ("raised", "content"),
    [
        (ToolError("GITHUB_REQUEST_FAILED:404", "Not Found"), "GITHUB_REQUEST_FAILED:404: Not Found"),
        (TimeoutError(), "NODE_EXECUTION_FAILED: the tool gave up waiting for something"),
        (ValueError(f"could not read {SECRET}"), "NODE_EXECUTION_FAILED: the tool raised ValueError"),
        (SystemExit(3), "NODE_EXECUTION_FAILED: the tool raised SystemExit"),
        (asyncio.CancelledError(), "NODE_EXECUTION_CANCELLED: the tool stopped by itself"),
        (ToolError("X", f"\ud800 {SECRET}"), "X: \ufffd ***"),
    ],
)
async def test_whatever_a_tool_raises_is_told_with_a_code(raised: BaseException, content: str) -> None:
    assert await answer(raised) == (content, True)


async def test_fault_of_a_tool_is_logged_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    await answer(ValueError(f"could not read {SECRET}"))
    assert "tool_raised" in caplog.text
    assert SECRET not in "".join(str(record.__dict__) for record in caplog.records)


async def test_tool_that_does_not_exist_is_told() -> None:
    told = await Toolbox().call("no.such" * 100, {}, USE)
    assert (told.content.startswith("UNKNOWN_TOOL: there is no tool no.such"), told.is_error) == (True, True)
    assert len(told.content) < 300


async def test_secrets_are_masked_in_what_every_tool_answers() -> None:
    assert await answer({"you": f"sent {SECRET}"}) == ('{"you":"sent ***"}', False)


@pytest.mark.parametrize("over", [0, 5, len(SECRET) - 1])
async def test_huge_answer_is_cut_and_no_piece_of_a_secret_stands_at_the_cut(over: int) -> None:
    begin = "x" * (ANSWER_MAX_CHARS - over)
    content, is_error = await answer(f"{begin}{SECRET}{'y' * 10_000_000}")
    assert not is_error
    assert len(content) < ANSWER_MAX_CHARS + 200
    assert (
        content
        == f"{begin}\n[... the answer has {len(begin) + len(SECRET) + 10_000_000} characters and was cut here ...]"
    )


async def test_tool_that_never_ends_is_stopped_at_its_time() -> None:
    ended = asyncio.Event()

    async def work() -> object:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    told = await Toolbox([FakeTool(work)]).call("look", {}, SOON)
    assert (told.content, told.is_error) == ("NODE_EXECUTION_TIMEOUT: no answer within 20 ms", True)
    assert ended.is_set()


async def test_tool_that_takes_no_notice_of_being_stopped_is_left_and_named(
    caplog: pytest.LogCaptureFixture, short_grace: None
) -> None:
    may_end, ended = asyncio.Event(), asyncio.Event()

    async def work() -> object:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue
        ended.set()
        return "late"

    with caplog.at_level(logging.ERROR):
        told = await Toolbox([FakeTool(work)]).call("look", {}, SOON)
    assert told.content.startswith("NODE_EXECUTION_TIMEOUT")
    assert [record.message for record in caplog.records] == ["task_does_not_stop"]
    assert "look" in caplog.records[0].__dict__["task"]
    call = asyncio.create_task(Toolbox([FakeTool(work)]).call("look", {}, USE))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    may_end.set()
    await ended.wait()


async def test_cancelling_a_call_ends_its_tool_first() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> object:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    call = asyncio.create_task(Toolbox([FakeTool(work)]).call("look", {}, USE))
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


def test_of_two_tools_with_one_id_the_first_stays() -> None:
    async def work() -> object:
        return None

    box = Toolbox([FakeTool(work, description="first"), FakeTool(work, description="second")])
    assert ([info.description for info in box.infos], "look" in box, "other" in box) == (["first"], True, False)
