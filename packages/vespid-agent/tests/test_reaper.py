from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from vespid_agent.journal import EntryState, Journal, Outcome
from vespid_agent.logs import get_logger
from vespid_agent.marks import Marks
from vespid_agent.reaper import reap
from vespid_agent.sandbox.task import ProcessMark
from vespid_protocol.frames import ExecuteResult


class Reaped:
    """A backend that only remembers what it was to end."""

    name = "host"

    def __init__(self) -> None:
        self.pids: list[int] = []

    async def reap(self, mark: ProcessMark) -> None:
        self.pids.append(mark.pid)


def mark(pid: int) -> str:
    return msgspec.json.encode(ProcessMark("host", pid, 1, "boot", "token")).decode()


@pytest.mark.parametrize("is_old", [False, True])
async def test_everything_that_a_dead_process_had_begun_is_ended(tmp_path: Path, is_old: bool) -> None:
    journal = Journal.open(tmp_path / "j.sqlite", "executor")
    await journal.start()
    told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    journal.begin("run:n:1", 1, b"", False, told.set_result)
    await told

    async def write(text: str) -> None:
        await journal.mark("run:n:1", text)

    if is_old:
        await write(mark(1))
    else:
        marks = Marks(write)
        await asyncio.gather(marks.put("tool:0", mark(1)), marks.put("tool:1", mark(2)))
    await journal.keep("run:n:1", b'{"loop":{"turns":2}}')
    await journal.stop()

    again = Journal.open(journal.path, "executor")
    await again.start()
    backend = Reaped()
    await reap(again, {"host": backend}, get_logger("test"))  # type: ignore[dict-item]
    assert backend.pids == ([1] if is_old else [1, 2])
    entry = await again.read("run:n:1")
    assert entry is not None
    assert entry.state is EntryState.FINISHED
    assert entry.result is not None
    failure = msgspec.json.decode(entry.result, type=ExecuteResult)
    assert (failure.error, bytes(failure.output)) == ("AGENT_DISCONNECTED", b'{"loop":{"turns":2}}')  # type: ignore[arg-type]
    await again.stop()
