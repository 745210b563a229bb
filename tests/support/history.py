"""What must hold of everything that ever happened, checked over the rows that are left and the marks of the tasks."""

from collections import Counter
from typing import Any

import asyncpg
from tests.support.organization import TERMINAL, Marks

from vespid.bus.capacity import RedisCapacity
from vespid.bus.connection import Connection
from vespid_protocol.ids import OrgId

_RUNS = "select id::text, status, error, version, event_seq from workflow_runs"
_EVENTS = "select run_id::text, seq, event_type, node_id from workflow_run_events order by run_id, seq"
_EXECUTIONS = """
    select request_id, run_id::text, node_id, attempt, state, error, on_lost, placements, lease_epoch, applied,
           finished_at is not null as ended
    from executions
"""
_ENDS = {"run_succeeded", "run_failed", "run_cancelled"}


async def check_history(connection: "asyncpg.Connection[Any]", accepted: set[str], marks: Marks | None) -> None:
    """Raises AssertionError with what is wrong.

    P1: every accepted run is terminal, once. P2: a request is started once where its node does not allow more, at most
    one result of it was applied. P3: nothing that ended is left unapplied. Events are numbered without gaps.
    """
    runs = {row["id"]: row for row in await connection.fetch(_RUNS)}
    assert accepted <= runs.keys(), "accepted runs are missing"
    assert [run_id for run_id in accepted if runs[run_id]["status"] not in TERMINAL] == []

    by_run: dict[str, list[Any]] = {}
    for event in await connection.fetch(_EVENTS):
        by_run.setdefault(event["run_id"], []).append(event)
    for run_id in accepted:
        events = by_run[run_id]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1)), f"gaps in {run_id}"
        assert runs[run_id]["event_seq"] == len(events)
        ends = [event["event_type"] for event in events if event["event_type"] in _ENDS]
        assert len(ends) == 1, f"{run_id} ended {ends}"
        assert events[-1]["event_type"] == ends[0], f"{run_id} goes on after its end"

    executions = [row for row in await connection.fetch(_EXECUTIONS) if row["run_id"] in accepted]
    assert [row["request_id"] for row in executions if not row["ended"]] == []
    unapplied = [row["request_id"] for row in executions if not row["applied"] and row["state"] != "cancelled"]
    assert unapplied == [], "ended and never applied"
    succeeded = Counter((row["run_id"], row["node_id"]) for row in executions if row["state"] == "succeeded")
    assert [node for node, count in succeeded.items() if count > 1] == [], "completed twice"

    if marks is None:
        return
    placements = {row["request_id"]: row["placements"] for row in executions}
    starts = Counter(marks.starts())
    too_often = {
        request_id: count for request_id, count in starts.items() if count > max(placements.get(request_id, 0), 1)
    }
    assert too_often == {}, "started more often than leased"
    for row in executions:
        if row["on_lost"] != "resend":
            assert starts[row["request_id"]] <= 1, f"{row['request_id']} was started twice"
        if row["state"] == "succeeded":
            assert starts[row["request_id"]] >= 1, f"{row['request_id']} succeeded without having been started"


async def reserved(redis_url: str, org_id: str) -> int:
    """Requests of the organization that the capacity book still counts as in flight."""
    connection = Connection(redis_url, name="test")
    await connection.start()
    try:
        return await RedisCapacity(connection).inflight(OrgId(org_id))
    finally:
        await connection.stop()
