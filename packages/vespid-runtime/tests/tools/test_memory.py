"""The memory of a session as tools of a model."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from vespid_runtime.memory import MemoryWorkspace
from vespid_runtime.tools.memory import memory_tool_list
from vespid_runtime.tools.tool import ToolError, ToolUse

USE = ToolUse(n=0, key="s:turn:1:tool:0", timeout_ms=10_000)


@pytest.fixture
def workspace(tmp_path: Path) -> MemoryWorkspace:
    return MemoryWorkspace(tmp_path, "0b8d2b4e-7d0f-4d56-9a3a-0d2f9d3d6a11", "key")


async def test_what_is_written_is_found_and_read(workspace: MemoryWorkspace) -> None:
    search, get, write = memory_tool_list(workspace)
    assert [tool.id for tool in (search, get, write)] == ["memory.search", "memory.get", "memory.write"]
    await write.call({"path": "memory/a.md", "content": "Green tea, no sugar."}, USE)
    found = await search.call({"query": "sugar"}, USE)
    assert isinstance(found, dict)
    assert found["results"][0]["path"] == "memory/a.md"
    read = await get.call({"path": "memory/a.md"}, USE)
    assert isinstance(read, dict)
    assert read["content"] == "Green tea, no sugar."
    assert all(tool.description and tool.input_schema["type"] == "object" and not tool.secrets for tool in (get, write))


async def test_what_the_memory_refuses_is_told_by_field(workspace: MemoryWorkspace) -> None:
    _, get, write = memory_tool_list(workspace)
    for tool, given in ((get, {"path": "memory/none.md"}), (write, {"path": "../x.md", "content": ""})):
        with pytest.raises(ToolError, match=r"INVALID_TOOL_ARGUMENTS: path: "):
            await tool.call(given, USE)


async def test_loop_goes_on_while_the_disk_is_slow_and_a_cancelled_write_is_over_when_the_call_is(
    workspace: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_go_on = threading.Event(), threading.Event()
    write = workspace.write

    def slow(path: str, content: str) -> str:
        began.set()
        assert may_go_on.wait(60)
        return write(path, content)

    monkeypatch.setattr(workspace, "write", slow)
    tool = memory_tool_list(workspace)[2]
    call = asyncio.create_task(tool.call({"path": "MEMORY.md", "content": "late", "mode": "replace"}, USE))
    await asyncio.to_thread(began.wait, 60)
    call.cancel()
    assert not (await asyncio.wait((call,), timeout=0.05))[0]
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert workspace.read("MEMORY.md") == "late"
