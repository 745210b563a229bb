"""What a run costs Postgres, counted by Postgres: `pg_stat_statements` of a server that has it (Debian's has)."""

import re

import asyncpg
import pytest
from tests.support.organization import Organization, shell

RUNS = 10
ROUNDS = 5
# Every statement that writes on behalf of a run; each is a commit of its own.
WRITES = re.compile(
    r"vespid_(create_runs|apply_steps|step_failed|cancel_run|x_note_waiting|x_append_remote_events|x_cancel_execution"
    r"|x_(create|grant|return|refuse|finish)_executions?)\b"
)


async def test_a_run_with_one_remote_node_is_four_commits(
    organization: Organization, superuser: "asyncpg.Connection"
) -> None:
    if "pg_stat_statements" not in await superuser.fetchval("show shared_preload_libraries"):
        pytest.skip("this Postgres does not count statements; test_own_servers runs this on one that does")
    await superuser.execute("create extension pg_stat_statements")
    await organization.pair()
    workflow = (await organization.publish(shell("true")))["workflow"]
    await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    exactly = {
        "vespid_create_runs": RUNS,
        "vespid_apply_steps": RUNS,
        "vespid_x_grant_executions": RUNS,
        "vespid_x_finish_executions": RUNS,
    }
    # On a busy machine a result may meet a run that has just moved on, which is a step more.
    for _ in range(ROUNDS):
        writes = await _written(superuser, organization, workflow["id"])
        if writes == exactly:
            break
    assert writes == exactly


async def _written(superuser: "asyncpg.Connection", organization: Organization, workflow_id: str) -> dict[str, int]:
    await superuser.execute("select pg_stat_statements_reset()")
    for _ in range(RUNS):
        run_id = await organization.start_run(workflow_id)
        assert (await organization.finished(workflow_id, run_id))["status"] == "succeeded"
    counted = await superuser.fetch(
        """select query, calls from pg_stat_statements
           where dbid = (select oid from pg_database where datname = current_database())"""
    )
    return {found.group(): row["calls"] for row in counted if (found := WRITES.search(row["query"]))}
