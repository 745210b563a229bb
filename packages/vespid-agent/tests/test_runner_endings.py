"""How work ends, with the journal real and desk and work of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from vespid_agent.journal import Entry, EntryState, Journal
from vespid_agent.logs import get_logger
from vespid_agent.runner import TIMEOUT_GRACE_MS, Kinds, Runner
from vespid_agent.testing.payloads import shell
from vespid_agent.work.job import Job, Outcome
from vespid_protocol import frames as f

DONE = Outcome.of({"said": "canary"})


@dataclass
class Desk:
    """Keeps what it is told."""

    lets_start: bool = True
    told: asyncio.Queue[f.ExecuteResult | Entry | str] = field(default_factory=asyncio.Queue)

    def may_start(self, request_id: str) -> bool:
        return self.lets_start

    def declined(self, request_id: str) -> None:
        self.told.put_nowait(request_id)

    def known(self, entry: Entry) -> None:
        self.told.put_nowait(entry)

    def ended(self, result: f.ExecuteResult, frame: bytes) -> None:
        self.told.put_nowait(result)

    def event(self, request_id: str, event: f.Event) -> None: ...


class Work:
    """Runs until it is told how to end; stopped, it first cleans up."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.stopping = asyncio.Event()
        self.clean = asyncio.Event()
        self.clean.set()
        # Finishes although it is stopped.
        self.insists = False

    async def run(self, asked: object, job: Job) -> Outcome:
        self.started.set()
        try:
            return await asyncio.shield(self.end)
        except asyncio.CancelledError:
            self.stopping.set()
            await self.clean.wait()
            if self.insists:
                return DONE
            raise


@dataclass
class Bench:
    journal: Journal
    desk: Desk
    work: Work
    runner: Runner
    now: int = 0

    async def result(self) -> f.ExecuteResult:
        async with asyncio.timeout(10):
            told = await self.desk.told.get()
        assert isinstance(told, f.ExecuteResult)
        return told

    async def row(self) -> Entry:
        entry = await self.journal.read("run:n:1")
        assert entry is not None
        return entry


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    journal = Journal.open(tmp_path / "j.sqlite", "executor")
    await journal.start()
    desk, work = Desk(), Work()
    kinds = Kinds(shell=work, action=None, agent=None, tool=None)  # type: ignore[arg-type]
    made: list[Bench] = []
    runner = Runner(kinds, journal, desk, get_logger("test"), lambda: made[0].now, 1 << 22)
    made.append(Bench(journal, desk, work, runner))
    yield made[0]
    await runner.close()
    await journal.stop()


def order(**fields: object) -> f.Execute:
    return f.Execute(
        request_id="run:n:1",
        organization_id="o",
        user_id="u",
        kind="agent.execute",
        payload=msgspec.Raw(msgspec.json.encode(shell("true"))),
        **({"lease_epoch": 1, "on_lost": "fail", "timeout_ms": 5_000} | fields),  # type: ignore[arg-type]
    )


@pytest.mark.promise("P3")
async def test_a_result_that_the_disk_refuses_is_written_when_it_takes_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vespid_agent.runner.REWRITE_S", 0.01)
    bench.runner.start(order())
    await bench.work.started.wait()
    bench.journal._connection.execute("pragma query_only = on")
    bench.work.end.set_result(DONE)
    while bench.journal.healthy:
        await asyncio.sleep(0)
    assert len(bench.runner) == 1
    assert bench.desk.told.empty()
    bench.journal._connection.execute("pragma query_only = off")
    assert (await bench.result()).status == "succeeded"
    assert (await bench.row()).state is EntryState.FINISHED
    assert len(bench.runner) == 0


async def test_cancelled_before_it_could_start_it_says_so(bench: Bench) -> None:
    bench.desk.lets_start = False
    bench.runner.start(order())
    bench.runner.stop("run:n:1", "cancelled")
    assert (await bench.result()).error == "NODE_EXECUTION_CANCELLED"
    assert not bench.work.started.is_set()


@pytest.mark.promise("P2")
async def test_given_back_unstarted_it_is_forgotten_and_may_come_again(bench: Bench) -> None:
    bench.desk.lets_start = False
    bench.runner.start(order())
    await bench.runner.idle()
    assert await bench.journal.read("run:n:1") is None
    bench.desk.lets_start = True
    bench.runner.start(order(lease_epoch=2))
    bench.work.end.set_result(DONE)
    assert (await bench.result()).lease_epoch == 2


@pytest.mark.promise("P2")
@pytest.mark.parametrize(("insists", "state"), [(False, EntryState.ABANDONED), (True, EntryState.FINISHED)])
async def test_what_was_stopped_for_want_of_trust_is_kept_unless_it_succeeded(
    bench: Bench, insists: bool, state: EntryState
) -> None:
    bench.work.insists = insists
    bench.runner.start(order())
    await bench.work.started.wait()
    bench.runner.stop("run:n:1", "trust_ended")
    assert (await bench.result()).status == ("succeeded" if insists else "failed")
    assert (await bench.row()).state is state


async def test_a_cancel_of_what_is_being_stopped_for_want_of_trust_is_answered_as_a_cancel(bench: Bench) -> None:
    bench.work.clean.clear()
    bench.runner.start(order())
    await bench.work.started.wait()
    bench.runner.stop("run:n:1", "trust_ended")
    await bench.work.stopping.wait()
    bench.runner.stop("run:n:1", "cancelled")
    bench.work.clean.set()
    assert (await bench.result()).error == "NODE_EXECUTION_CANCELLED"
    assert (await bench.row()).state is EntryState.FINISHED


async def test_what_moves_when_it_is_lost_is_remembered_as_such_under_the_epoch_that_holds(bench: Bench) -> None:
    bench.runner.start(order(on_lost="resend"))
    await bench.work.started.wait()
    bench.runner.adopt("run:n:1", 7)
    row = await bench.row()
    assert (row.state, row.moves, row.lease_epoch) == (EntryState.STARTED, True, 7)
    bench.work.end.set_result(DONE)
    assert (await bench.result()).lease_epoch == 7
    assert (await bench.row()).lease_epoch == 7


async def test_time_that_passed_while_the_machine_slept_counts(bench: Bench) -> None:
    bench.runner.start(order(timeout_ms=600_000))
    await bench.work.started.wait()
    bench.now = 600_000 + TIMEOUT_GRACE_MS
    bench.runner.expire()
    assert not bench.work.stopping.is_set()
    bench.now += 1
    bench.runner.expire()
    assert (await bench.result()).error == "NODE_EXECUTION_TIMEOUT"


@pytest.mark.promise("P7")
@pytest.mark.parametrize("where", [{"secret": "canary"}, {"secrets": {"s": "canary"}}])
async def test_either_kind_of_secret_is_masked(bench: Bench, where: dict[str, object]) -> None:
    bench.runner.start(order(**where))
    bench.work.end.set_result(DONE)
    result = await bench.result()
    assert isinstance(result.output, msgspec.Raw)
    row = await bench.row()
    assert row.result is not None
    assert b"canary" not in bytes(result.output) + row.result


async def test_idle_waits_for_the_last(bench: Bench) -> None:
    bench.runner.start(order())
    await bench.work.started.wait()
    bench.runner.start(
        msgspec.structs.replace(order(), request_id="run:n:2", kind="agent.run", payload=msgspec.Raw(b"{}"))
    )
    await bench.result()
    idle: asyncio.Task[None] = asyncio.create_task(bench.runner.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    bench.work.end.set_result(DONE)
    await idle
