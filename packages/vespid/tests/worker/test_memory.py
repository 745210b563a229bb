"""What runs in the gateway's mode remember: one workflow's, whole, within limits, and written once by each call."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.support.ground import Ground

from vespid.dispatch.memory_search import MemorySearch
from vespid.store.pool import Database, DatabaseUnavailable
from vespid.worker import memory as memory_module
from vespid.worker.memory import WorkflowMemory
from vespid_protocol.ids import OrgId
from vespid_runtime.memory import limits, workflow_key
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.tool import ToolError, ToolUse

CANARY = "canary-0b61f2a97c"


class Node:
    """A node that may remember, of some workflow."""

    def __init__(self, db: Database, org: OrgId, workflow: str = "a") -> None:
        self.memory = WorkflowMemory(db, MemorySearch(), org, workflow_key(workflow))
        self.tools = {tool.id: tool for tool in self.memory.tools(("memory.*",), Redactor([CANARY]))}

    async def call(self, tool: str, key: str = "run:n:tool:0", **given: object) -> Any:
        return await self.tools[f"memory.{tool}"].call(given, ToolUse(n=0, key=key, timeout_ms=10_000))

    async def write(self, content: str, key: str = "r:n:tool:0", path: str = "MEMORY.md", mode: str = "append") -> Any:
        return await self.call("write", key, path=path, content=content, mode=mode)

    async def text(self, path: str = "MEMORY.md") -> str:
        return str((await self.call("get", path=path))["content"])


@pytest.fixture
def ground(superuser: "asyncpg.Connection") -> Ground:
    return Ground(superuser)


@pytest.fixture
async def org(ground: Ground) -> OrgId:
    return await ground.organization()


@pytest.fixture
async def node(database: Database, org: OrgId) -> Node:
    return Node(database, org)


async def test_what_is_written_is_found_and_read_by_another_run(node: Node, database: Database, org: OrgId) -> None:
    wrote = await node.write("# Tea\n\nGreen, no sugar.", path="memory/tea.md")
    later = Node(database, org)
    (found,) = (await later.call("search", query="sugar"))["results"]
    assert found == {"path": "memory/tea.md", "score": 1.0, "snippet": "Green, no sugar.", "lineStart": 3, "lineEnd": 3}
    read = await later.call("get", path="memory/tea.md", lineStart=3)
    assert read == {
        "path": "memory/tea.md",
        "content": "Green, no sugar.",
        "lineStart": 3,
        "lineEnd": 3,
        "lineCount": 3,
    }
    assert await later.write("# Tea\n\nGreen, no sugar.", "r:n:tool:1", "memory/tea.md", "replace") == wrote
    # The index that was made before sees what is written after.
    await node.write("black, with sugar", "r:n:tool:2", "memory/tea.md")
    assert len((await later.call("search", query="black"))["results"]) == 1


@pytest.mark.promise("P5")
async def test_neither_another_workflow_nor_another_organization_sees_it(
    node: Node, database: Database, org: OrgId, ground: Ground
) -> None:
    await node.write("mine")
    for other in (Node(database, org, "b"), Node(database, await ground.organization())):
        assert (await other.call("search", query="mine"))["results"] == []
        with pytest.raises(ToolError, match="there is no such document"):
            await other.text()
        # Nor is its call taken for one of ours.
    stranger = Node(database, await ground.organization())
    await stranger.write("theirs")
    assert (await stranger.text(), await node.text()) == ("theirs", "mine")


async def test_writes_of_many_runs_at_once_are_each_whole(node: Node) -> None:
    lines = [f"line {n}" for n in range(16)]
    await asyncio.gather(*(node.write(line, f"run-{line}:n:tool:0") for line in lines))
    assert sorted((await node.text()).split("\n")) == sorted(lines)


async def test_call_that_comes_again_writes_once(node: Node) -> None:
    first = await node.write("one", "r:n:tool:0")
    await node.write("two", "s:n:tool:0")
    assert await node.write("one", "r:n:tool:0") == first
    assert await node.text() == "one\ntwo"


async def test_call_whose_connection_is_lost_is_made_again_and_writes_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = memory_module.write_doc, []

    async def lost(*given: Any) -> str:
        calls.append(given)
        if len(calls) == 1:
            raise DatabaseUnavailable("gone")
        return await write(*given)

    monkeypatch.setattr(memory_module, "write_doc", lost)
    monkeypatch.setattr(memory_module, "RETRY_S", (0.0,))
    await node.write("one")
    assert (len(calls), await node.text()) == (2, "one")

    async def away(*given: Any) -> str:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(memory_module, "write_doc", away)
    with pytest.raises(ToolError, match="cannot be reached"):
        await node.write("two")


async def test_what_is_refused_is_told_by_field_and_changes_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.write("one", path="memory/Notes.md")
    monkeypatch.setattr(limits, "DOCUMENTS_MAX", 2)
    monkeypatch.setattr(limits, "TOTAL_MAX_BYTES", 100)
    for at, (path, content, told) in enumerate(
        (
            ("../x.md", "x", "path: "),
            ("memory/notes.md", "x", "would be one file"),
            ("MEMORY.md", "x" * (limits.DOCUMENT_MAX_BYTES + 1), "content: "),
            ("MEMORY.md", "x" * 98, "larger than 100 bytes"),
        )
    ):
        with pytest.raises(ToolError, match=told):
            await node.write(content, f"r:n:tool:{at}", path)
    await node.write("two", "r:n:tool:8", "memory/two.md")
    with pytest.raises(ToolError, match="one too many"):
        await node.write("three", "r:n:tool:9")
    assert await node.text("memory/Notes.md") == "one"


@pytest.mark.promise("P7")
async def test_secret_is_masked_before_it_is_kept(node: Node, ground: Ground) -> None:
    await node.write(f"It is {CANARY}.")
    assert await node.text() == "It is ***."
    kept = await ground.sql.fetch("select d::text as said from memory_docs d")
    assert not [row for row in kept if CANARY in row["said"]]


async def test_calls_of_long_ago_are_forgotten(node: Node, org: OrgId, ground: Ground) -> None:
    await node.write("one", "old:n:tool:0")
    await ground.sql.execute(
        "update memory_writes set written_at = now() - interval '91 days' where organization_id = $1", UUID(org)
    )
    await node.write("two", "new:n:tool:0")
    keys = await ground.sql.fetch("select call_key from memory_writes where organization_id = $1", UUID(org))
    assert [row["call_key"] for row in keys] == ["new:n:tool:0"]
