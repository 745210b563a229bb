"""The tools: what is wrong with a call is said by the name of the field."""

from pathlib import Path

import pytest

from vespid_runtime.memory.paths import MemoryRefused
from vespid_runtime.memory.tools import MEMORY_TOOLS, carry_out
from vespid_runtime.memory.workspace import MemoryWorkspace

ORG = "0b8d2b4e-7d0f-4d56-9a3a-0d2f9d3d6a11"


class Bound:
    """A tool over one workspace."""

    def __init__(self, tool: str, workspace: MemoryWorkspace) -> None:
        self.tool, self._workspace = MEMORY_TOOLS[tool], workspace

    def call(self, given: object) -> dict:
        return carry_out(self._workspace, self.tool.read(given))


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, Bound]:
    workspace = MemoryWorkspace(tmp_path, ORG, "key")
    return {tool: Bound(tool, workspace) for tool in MEMORY_TOOLS}


def test_what_is_written_is_found_and_read(tools: dict[str, Bound]) -> None:
    tools["memory.write"].call({"path": "memory/a.md", "content": "# Tea\n\nGreen, no sugar."})
    (found,) = tools["memory.search"].call({"query": "sugar"})["results"]
    assert found == {"path": "memory/a.md", "score": 1.0, "snippet": "Green, no sugar.", "lineStart": 3, "lineEnd": 3}
    read = tools["memory.get"].call({"path": "memory/a.md", "lineStart": found["lineStart"]})
    assert read == {"path": "memory/a.md", "content": "Green, no sugar.", "lineStart": 3, "lineEnd": 3, "lineCount": 3}


def test_write_adds_unless_told_to_replace(tools: dict[str, Bound]) -> None:
    for given in ({"content": "one"}, {"content": "two", "mode": "append"}):
        tools["memory.write"].call({"path": "MEMORY.md", **given})
    assert tools["memory.get"].call({"path": "MEMORY.md"})["content"] == "one\ntwo"
    tools["memory.write"].call({"path": "MEMORY.md", "content": "three", "mode": "replace"})
    assert tools["memory.get"].call({"path": "MEMORY.md"})["content"] == "three"


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        ({}, "1\n2\n3\n"),
        ({"lineEnd": 2}, "1\n2"),
        ({"lineStart": 3, "lineEnd": 99}, "3"),
        ({"lineEnd": 99}, "1\n2\n3\n"),
    ],
)
def test_some_lines_can_be_read(tools: dict[str, Bound], lines: dict[str, int], content: str) -> None:
    tools["memory.write"].call({"path": "MEMORY.md", "content": "1\n2\n3\n"})
    assert tools["memory.get"].call({"path": "MEMORY.md", **lines})["content"] == content


@pytest.mark.parametrize(
    ("tool", "given", "field"),
    [
        ("memory.search", {}, "query"),
        ("memory.search", {"query": ""}, "query"),
        ("memory.search", {"query": "x", "limit": 51}, "limit"),
        ("memory.search", {"query": "x", "more": 1}, "more"),
        ("memory.search", [], "input"),
        ("memory.get", {"path": "../x.md"}, "path"),
        ("memory.get", {"path": "MEMORY.md"}, "path"),
        ("memory.get", {"path": "memory/there.md", "lineStart": 9}, "lineStart"),
        ("memory.get", {"path": "memory/there.md", "lineStart": 2, "lineEnd": 1}, "lineEnd"),
        ("memory.get", {"path": "memory/there.md", "lineStart": 0}, "lineStart"),
        ("memory.write", {"path": "memory/x.txt", "content": ""}, "path"),
        ("memory.write", {"path": "MEMORY.md", "content": 1}, "content"),
        ("memory.write", {"path": "MEMORY.md", "content": "x" * 300_000}, "content"),
        ("memory.write", {"path": "MEMORY.md", "content": "ü" * 200_000}, "content"),
        ("memory.write", {"path": "MEMORY.md", "content": "x", "mode": "insert"}, "mode"),
    ],
)
def test_call_that_cannot_be_is_refused_by_field(tools: dict[str, Bound], tool: str, given: object, field: str) -> None:
    tools["memory.write"].call({"path": "memory/there.md", "content": "1\n2\n3\n"})
    with pytest.raises(MemoryRefused) as refused:
        tools[tool].call(given)
    assert refused.value.field == field


def test_schemas_say_what_is_taken() -> None:
    assert set(MEMORY_TOOLS) == {"memory.search", "memory.get", "memory.write"}
    for tool in MEMORY_TOOLS.values():
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
    assert MEMORY_TOOLS["memory.write"].input_schema["required"] == ["path", "content"]
