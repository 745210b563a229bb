"""What a run has sent where, over HTTP."""

from uuid import UUID, uuid4

import asyncpg
from tests.support.control import Caller, Control
from tests.support.run_steps import Stepping, published, start


async def test_a_member_sees_where_each_attempt_is_page_by_page(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    path = await published(owner)
    run = await start(owner, path)
    stepping = Stepping(superuser)
    ended = await stepping.block(run, "n1", ended_with="{}")
    waiting = await stepping.block(run, "n2")
    agent_id = uuid4()
    await superuser.execute(
        "insert into executors (id, organization_id, name, token_sha256) values ($1, $2, 'box', '\\x00')",
        agent_id,
        UUID(run["organizationId"]),
    )
    await superuser.execute("update executions set executor_id = $1 where request_id = $2", agent_id, ended)
    member = await control.join(owner, "member")
    attempts = f"{path}/runs/{run['id']}/attempts"
    first = (await member.get(f"{attempts}?limit=1")).body
    second = (await member.get(f"{attempts}?limit=1&cursor={first['nextCursor']}")).body
    both = [first["attempts"][0], second["attempts"][0]]
    assert [(a["requestId"], a["executorName"]) for a in both] == [(ended, "box"), (waiting, None)]
    assert second["nextCursor"] is None
    assert [a["requestId"] for a in (await member.get(f"{attempts}?unfinished=true")).body["attempts"]] == [waiting]
