"""What people are asked, statement by statement: nobody else ends it, and one decision counts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from tests.support.ground import Ground, new_row

from vespid.domain.run_event import Ask
from vespid.store.approvals import decide_approval, list_approvals, read_approval
from vespid.store.executions import ExecutionStore, Finish, GiveBack, Grant, NewRow, NotGranted
from vespid.store.pool import Database
from vespid.store.steps import StepItem, StepStore
from vespid_protocol.ids import OrgId, RequestId, RunId, new_id

DAY_MS = 86_400_000
HASH = "ab" * 32


def ask(n: int | None = None, *, by: Any = "admin", timeout_ms: int = DAY_MS, digest: str = HASH) -> Ask:
    kind: Any = "node" if n is None else "tool"
    return Ask(
        id=new_id(), kind=kind, n=n, tool=None if n is None else "memory.get", digest=None if n is None else "0" * 64,
        by=by, timeout_ms=timeout_ms, what=f'{{"kind":"{kind}"}}', hash=digest,
    )  # fmt: skip


class Asking:
    """A run that waits for people, and people."""

    def __init__(self, ground: Ground, db: Database, store: ExecutionStore, steps: StepStore, org: OrgId) -> None:
        self.ground, self.db, self.store, self.steps, self.org = ground, db, store, steps, org
        self.run = RunId(new_id())
        self.request = RequestId(f"{self.run}:n1:1")
        self.asks: list[Ask] = []

    async def begin(self, *asks: Ask) -> None:
        """A step that asks."""
        self.run = await self.ground.run(self.org, await self.ground.workflow(self.org))
        self.request = RequestId(f"{self.run}:n1:1")
        self.asks = list(asks)
        assert await self.steps.apply(self.step(0, executions=[self.row(*asks)])) is not None

    def row(self, *asks: Ask, attempt: int = 1) -> NewRow:
        return new_row(
            self.org, self.run, in_run=True, attempt=attempt, kind="approval", placement="person", asks=asks,
            workflow_id=new_id(), max_wait_ms=max(each.timeout_ms for each in asks), timeout_ms=0,
        )  # fmt: skip

    def step(self, version: int, **more: Any) -> StepItem:
        return StepItem(
            org=self.org, run=self.run, version=version, status="running", attempt=1, cursor=msgspec.Raw(b"{}"), **more
        )

    async def person(self, role: str = "admin") -> UUID:
        user = uuid4()
        await self.ground.sql.execute(
            "insert into users (id, email, password_hash) values ($1, $2, 'x')", user, f"{user}@people.test"
        )
        await self.ground.sql.execute(
            "insert into memberships (organization_id, user_id, role) values ($1, $2, $3)", UUID(self.org), user, role
        )
        return user

    async def key(self, maker: UUID, role: str) -> UUID:
        key = uuid4()
        await self.ground.sql.execute(
            """insert into api_keys (id, organization_id, name, role, token_sha256, created_by_user_id)
               values ($1, $2, 'k', $3, $4, $5)""",
            key, UUID(self.org), role, key.bytes * 2, maker,
        )  # fmt: skip
        return key

    async def decide(
        self, person: UUID, verdict: Any = "approved", *, at: int = 0, key: UUID | None = None, seen: str = HASH,
        org: OrgId | None = None, comment: str | None = None,
    ) -> str:  # fmt: skip
        org = org or self.org
        async with self.db.tenant(org) as connection:
            return await decide_approval(
                connection, UUID(org), UUID(self.asks[at].id), person, key, verdict, seen, comment
            )

    async def status(self, at: int = 0) -> str:
        async with self.db.tenant(self.org) as connection:
            row = await read_approval(connection, UUID(self.org), UUID(self.asks[at].id))
        assert row is not None
        return row.status

    async def output(self) -> Any:
        return msgspec.json.decode((await self.ground.execution(self.request))["output"])

    async def expire(self, *at: int) -> None:
        """Put the time of questions into the past, with that of the wait where nothing is left."""
        for each in at or range(len(self.asks)):
            await self.ground.let_pass("approvals", "id", UUID(self.asks[each].id), "expires_at")
        if not at:
            await self.ground.let_pass("executions", "request_id", self.request, "act_by", "sweep_at")

    async def decisions(self) -> list[Any]:
        events = [event for event in await self.ground.events(self.run) if event["event_type"] == "approval_decided"]
        return [msgspec.json.decode(event["payload"]) for event in events]


@pytest.fixture
async def asking(ground: Ground, database: Database, executions: ExecutionStore, steps: StepStore) -> Asking:
    return Asking(ground, database, executions, steps, await ground.organization())


# --- nobody but people -----------------------------------------------------------------------------------------------


@pytest.mark.promise("P2")
async def test_what_people_are_asked_is_leased_to_nobody(asking: Asking, ground: Ground) -> None:
    await asking.begin(ask())
    lease = await ground.connected(await ground.executor(asking.org), await ground.process())
    process = await ground.process("worker")
    assert await asking.store.grant(Grant(asking.request, lease.executor, lease.epoch, lease.edge)) == NotGranted(
        "refused"
    )
    # Asked for by the very words that it must not be asked for with.
    await ground.sql.execute("update executions set sweep_at = now()")
    assert await asking.store.claim_cloud(process, ("cloud", "gateway"), [], 10) == []
    assert await asking.store.read_pending([asking.request]) == []
    for sender in ({"executor": lease.executor, "connection_epoch": lease.epoch}, {"process": process}, {}):
        finish = Finish(request=asking.request, status="succeeded", **sender)  # type: ignore[arg-type]
        assert (await asking.store.finish(finish)).outcome == "fenced"
    assert not await asking.store.give_back(GiveBack(asking.request, lease.executor))
    row = await ground.execution(asking.request)
    assert (row["state"], row["lease_epoch"], row["holder_process"]) == ("pending", 0, None)


async def test_a_wait_of_thirty_days_is_kept(asking: Asking) -> None:
    await asking.begin(ask(timeout_ms=30 * DAY_MS))
    row = await asking.ground.execution(asking.request)
    assert row["act_by"] == row["sweep_at"]
    assert (row["act_by"] - row["created_at"]).days in (29, 30)


async def test_the_sweep_leaves_alone_what_still_waits(asking: Asking) -> None:
    await asking.begin(ask())
    await asking.ground.sql.execute("update executions set sweep_at = now()")
    (swept,) = await asking.store.sweep()
    assert swept.action == "later"
    row = await asking.ground.execution(asking.request)
    assert (row["state"], row["sweep_at"]) == ("pending", row["act_by"])


# --- deciding --------------------------------------------------------------------------------------------------------


async def test_a_decision_ends_the_wait_and_makes_the_run_due(asking: Asking) -> None:
    await asking.begin(ask())
    person = await asking.person()
    before = await asking.ground.run_row(asking.run)
    assert await asking.decide(person, comment="fine") == "decided"
    row = await asking.ground.execution(asking.request)
    assert (row["state"], row["applied"]) == ("succeeded", False)
    assert await asking.output() == {
        "kind": "node",
        "decided": [
            {
                "id": asking.asks[0].id,
                "hash": HASH,
                "decision": "approved",
                "comment": "fine",
                "userId": str(person),
            }
        ],
    }
    after = await asking.ground.run_row(asking.run)
    assert after["version"] == before["version"] + 1
    assert await asking.ground.is_due(asking.run)
    (told,) = await asking.decisions()
    assert (told["decision"], told["hash"], told["userId"], told["comment"]) == ("approved", HASH, str(person), "fine")
    (event,) = [e for e in await asking.ground.events(asking.run) if e["event_type"] == "approval_decided"]
    assert event["seq"] == after["event_seq"]


async def test_each_call_is_decided_by_itself_and_the_last_one_ends_the_wait(asking: Asking) -> None:
    await asking.begin(ask(0), ask(1))
    person = await asking.person()
    assert await asking.decide(person, "denied", at=1) == "decided"
    assert await asking.ground.state(asking.request) == "pending"
    assert [await asking.status(at) for at in (0, 1)] == ["pending", "denied"]
    assert await asking.decide(person, at=0) == "decided"
    assert [each["decision"] for each in (await asking.output())["decided"]] == ["approved", "denied"]
    assert [told["n"] for told in await asking.decisions()] == [1, 0]


async def test_a_call_whose_time_is_over_holds_up_none_of_the_others(asking: Asking) -> None:
    await asking.begin(ask(0), ask(1, timeout_ms=2 * DAY_MS))
    person = await asking.person()
    await asking.expire(0)
    assert await asking.decide(person, at=0) == "late"
    assert await asking.decide(person, at=1) == "decided"
    assert [await asking.status(at) for at in (0, 1)] == ["expired", "approved"]
    row = await asking.ground.execution(asking.request)
    assert (row["state"], row["error"]) == ("failed", "APPROVAL_EXPIRED")
    assert [each["decision"] for each in (await asking.output())["decided"]] == ["expired", "approved"]


async def test_the_wait_is_no_longer_than_what_is_still_open(asking: Asking) -> None:
    await asking.begin(ask(0), ask(1, timeout_ms=2 * DAY_MS))
    await asking.decide(await asking.person(), at=1)
    row = await asking.ground.execution(asking.request)
    assert (row["act_by"] - row["created_at"]).total_seconds() <= DAY_MS / 1000
    assert row["sweep_at"] == row["act_by"]


async def test_another_hash_decides_nothing(asking: Asking) -> None:
    await asking.begin(ask())
    assert await asking.decide(await asking.person(), seen="cd" * 32) == "other_hash"
    assert await asking.status() == "pending"
    assert await asking.ground.state(asking.request) == "pending"


@pytest.mark.parametrize(
    ("role", "by", "outcome"),
    [
        ("member", "member", "decided"),
        ("member", "admin", "forbidden"),
        ("admin", "admin", "decided"),
        ("admin", "owner", "forbidden"),
        ("owner", "owner", "decided"),
        ("owner", "member", "decided"),
    ],
)
async def test_a_role_that_is_too_low_decides_nothing(asking: Asking, role: str, by: str, outcome: str) -> None:
    await asking.begin(ask(by=by))
    assert await asking.decide(await asking.person(role)) == outcome
    assert await asking.status() == ("approved" if outcome == "decided" else "pending")


@pytest.mark.parametrize(
    ("of_maker", "of_key", "outcome"),
    [("owner", "member", "forbidden"), ("member", "owner", "forbidden"), ("admin", "admin", "decided")],
)
async def test_a_key_decides_by_the_lesser_of_its_role_and_its_makers(
    asking: Asking, of_maker: str, of_key: str, outcome: str
) -> None:
    await asking.begin(ask())
    maker = await asking.person(of_maker)
    assert await asking.decide(maker, key=await asking.key(maker, of_key)) == outcome


@pytest.mark.parametrize("end", ["revoked_at = now()", "expires_at = now() - interval '1 s'"])
async def test_a_key_that_has_ended_decides_nothing(asking: Asking, end: str) -> None:
    await asking.begin(ask())
    maker = await asking.person()
    key = await asking.key(maker, "admin")
    await asking.ground.sql.execute(f"update api_keys set {end}")
    assert await asking.decide(maker, key=key) == "forbidden"


@pytest.mark.promise("P5")
async def test_an_approval_is_not_there_for_another_organization(asking: Asking, ground: Ground) -> None:
    await asking.begin(ask())
    elsewhere = await ground.organization()
    person = await asking.person("owner")
    await ground.sql.execute(
        "insert into memberships (organization_id, user_id, role) values ($1, $2, 'owner')", UUID(elsewhere), person
    )
    assert await asking.decide(person, org=elsewhere) == "not_found"
    async with asking.db.tenant(elsewhere) as connection:
        # Also with the words of the tenant it belongs to: the row-level security is the judge.
        for org in (elsewhere, asking.org):
            assert await read_approval(connection, UUID(org), UUID(asking.asks[0].id)) is None
            assert await list_approvals(connection, UUID(org), None, None, None, 10) == []
    assert await asking.status() == "pending"


# --- at the same time ------------------------------------------------------------------------------------------------


async def gathered(*works: Awaitable[str]) -> list[str]:
    async with asyncio.timeout(20):
        return list(await asyncio.gather(*works))


@pytest.mark.promise("P2")
async def test_of_many_who_decide_at_once_exactly_one_does(asking: Asking) -> None:
    await asking.begin(ask())
    people = [await asking.person() for _ in range(8)]
    outcomes = await gathered(
        *(asking.decide(person, "approved" if at % 2 else "denied") for at, person in enumerate(people))
    )
    assert sorted(outcomes) == ["decided", *["late"] * 7]
    (told,) = await asking.decisions()
    assert (await asking.output())["decided"][0]["decision"] == told["decision"]
    assert UUID(told["userId"]) == people[outcomes.index("decided")]


@pytest.mark.promise("P2")
async def test_a_decision_and_the_end_of_its_time_are_one_or_the_other(asking: Asking) -> None:
    for _ in range(6):
        await asking.begin(ask())
        person = await asking.person()
        # The wait is over by its own clock and the question is not: whoever locks the run first has it.
        await asking.ground.let_pass("executions", "request_id", asking.request, "act_by", "sweep_at")

        async def sweep() -> str:
            await asking.store.sweep()
            return ""

        outcome, _ = await gathered(asking.decide(person), sweep())
        state = await asking.ground.execution(asking.request)
        assert (outcome, state["state"]) in (("decided", "succeeded"), ("late", "failed"))
        assert await asking.status() == ("approved" if outcome == "decided" else "expired")
        assert len(await asking.decisions()) == 1


async def held_up(asking: Asking, statement: str, *args: object) -> tuple["asyncpg.Connection", Callable[[], Any]]:
    """A transaction of somebody else's that has done its work and has not committed."""
    other = await asking.db.connect()
    await other.execute("begin")
    await other.execute("select set_config('app.current_org_id', $1, true)".replace("$1", f"'{asking.org}'"))
    await other.execute(statement, *args)

    async def commit() -> None:
        await other.execute("commit")
        await other.close()

    return other, commit


@pytest.mark.promise("P6")
async def test_who_is_removed_meanwhile_decides_nothing(asking: Asking) -> None:
    await asking.begin(ask())
    person = await asking.person()
    other, commit = await held_up(asking, "delete from memberships where user_id = $1", person)
    deciding = asyncio.ensure_future(asking.decide(person))
    await waits_for(asking, other)
    await commit()
    assert await deciding == "forbidden"
    assert await asking.status() == "pending"


@pytest.mark.promise("P6")
async def test_who_is_lowered_meanwhile_decides_nothing(asking: Asking) -> None:
    await asking.begin(ask())
    person = await asking.person()
    other, commit = await held_up(asking, "update memberships set role = 'member' where user_id = $1", person)
    deciding = asyncio.ensure_future(asking.decide(person))
    await waits_for(asking, other)
    await commit()
    assert await deciding == "forbidden"


async def waits_for(asking: Asking, other: "asyncpg.Connection") -> None:
    """Until somebody waits for a lock of that connection."""
    async with asyncio.timeout(10):
        while not await asking.ground.sql.fetchval(
            "select exists (select from pg_stat_activity where $1 = any (pg_blocking_pids(pid)))",
            other.get_server_pid(),
        ):
            await asyncio.sleep(0.01)


# --- other ends ------------------------------------------------------------------------------------------------------


async def test_what_nobody_decided_in_time_has_expired_and_the_run_is_told(asking: Asking) -> None:
    await asking.begin(ask(0), ask(1))
    await asking.decide(await asking.person(), at=0)
    await asking.expire(1)
    assert await asking.status(1) == "expired"
    await asking.ground.let_pass("executions", "request_id", asking.request, "act_by", "sweep_at")
    (swept,) = await asking.store.sweep()
    assert swept.action == "concluded"
    row = await asking.ground.execution(asking.request)
    assert (row["state"], row["error"]) == ("failed", "APPROVAL_EXPIRED")
    assert [each["decision"] for each in (await asking.output())["decided"]] == ["approved", "expired"]
    assert [told["decision"] for told in await asking.decisions()] == ["approved", "expired"]
    assert await asking.ground.is_due(asking.run)
    events = await asking.ground.events(asking.run)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_a_cancel_of_the_run_withdraws_what_is_asked(asking: Asking) -> None:
    await asking.begin(ask())
    written = await asking.steps.apply(asking.step(1, cancels=[asking.request]))
    assert written is not None
    assert written.cancelled == [asking.request]
    assert await asking.status() == "cancelled"
    assert await asking.decide(await asking.person()) == "late"
    assert await asking.ground.state(asking.request) == "cancelled"


async def test_a_cancel_of_the_request_withdraws_what_is_asked(asking: Asking) -> None:
    await asking.begin(ask())
    assert (await asking.store.cancel(asking.request)).outcome == "cancelled"
    assert await asking.status() == "cancelled"
    assert await asking.ground.is_due(asking.run)


async def test_a_run_that_fails_of_our_own_fault_withdraws_what_it_asked(asking: Asking) -> None:
    await asking.begin(ask())
    version = 1
    while await asking.steps.fail(asking.org, asking.run, version, "KeyError") == "again":
        version += 1
    assert await asking.status() == "cancelled"
    assert await asking.decide(await asking.person()) == "late"


async def test_a_question_that_is_asked_twice_is_one(asking: Asking) -> None:
    await asking.begin(ask())
    assert await asking.steps.apply(asking.step(1, executions=[asking.row(ask())])) is not None
    assert await asking.ground.sql.fetchval("select count(*) from approvals") == 1


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_lists_go_by_status_and_run(asking: Asking) -> None:
    await asking.begin(ask(0), ask(1))
    first_run = asking.run
    await asking.decide(await asking.person(), at=0)
    decided, pending = (UUID(each.id) for each in asking.asks)
    await asking.begin(ask())
    newest = UUID(asking.asks[0].id)
    org = UUID(asking.org)
    async with asking.db.tenant(asking.org) as connection:

        async def listed(before: UUID | None, run: UUID | None, is_pending: bool | None) -> list[UUID]:
            return [row.id for row in await list_approvals(connection, org, before, run, is_pending, 10)]

        assert await listed(None, None, None) == [newest, pending, decided]
        assert await listed(None, None, True) == [newest, pending]
        assert await listed(None, None, False) == [decided]
        assert await listed(None, UUID(first_run), True) == [pending]
        assert await listed(newest, None, None) == [pending, decided]


async def test_a_question_past_its_time_does_not_look_open(asking: Asking) -> None:
    await asking.begin(ask())
    await asking.expire(0)
    assert await asking.status() == "expired"
    async with asking.db.tenant(asking.org) as connection:
        assert await list_approvals(connection, UUID(asking.org), None, None, True, 10) == []


async def test_whoever_goes_on_is_told_all_that_was_decided_of_the_nodes_calls(asking: Asking) -> None:
    await asking.begin(ask(0), ask(1), ask(2))
    person = await asking.person()
    await asking.decide(person, at=0)
    await asking.decide(person, "denied", at=1, comment="no")
    so_far = await asking.store.read_resume(asking.org, asking.request)
    assert so_far.decided is not None
    assert msgspec.json.decode(so_far.decided) == [
        {"n": 0, "tool": "memory.get", "digest": "0" * 64, "decision": "approved"},
        {"n": 1, "tool": "memory.get", "digest": "0" * 64, "decision": "denied", "comment": "no"},
    ]
    elsewhere = await asking.ground.organization()
    assert (await asking.store.read_resume(elsewhere, asking.request)).decided is None
