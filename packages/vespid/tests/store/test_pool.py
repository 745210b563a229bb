"""The pool: who its connections are, whose rows they see, what they cost."""

import asyncio

import asyncpg
import msgspec
import pytest

from vespid.store.migrate import migrate
from vespid.store.pool import LOST_CONNECTION, Database, DatabaseUnavailable, SchemaMissing, newest_revision
from vespid.store.tenant import begin_as
from vespid_protocol.ids import OrgId

ACME = OrgId("01890000-0000-7000-8000-00000000000a")
OTHER = OrgId("01890000-0000-7000-8000-00000000000b")

NOTES = """
create table notes (organization_id uuid not null, text text not null);
select vespid_tenant_table('notes');
"""


@pytest.mark.promise("P5")
async def test_a_connection_is_the_service_role_whatever_the_login_is(database: Database) -> None:
    row = await database.fetchrow_system(
        "select current_user as name, rolsuper, rolbypassrls from pg_roles where rolname = current_user"
    )
    assert row is not None
    assert tuple(row) == ("vespid_service", False, False)


@pytest.mark.promise("P5")
async def test_a_tenant_sees_and_writes_only_its_own_rows(database: Database, superuser: asyncpg.Connection) -> None:
    await superuser.execute(NOTES)
    async with database.tenant(ACME) as connection:
        await connection.execute("insert into notes values ($1, 'ours')", ACME)
    async with database.tenant(OTHER) as connection:
        assert await connection.fetch("select * from notes") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("insert into notes values ($1, 'theirs')", ACME)
        await connection.execute("rollback")
        await connection.execute("begin")
    assert await database.fetch_system("select * from notes") == []


async def test_the_tenant_ends_with_its_transaction(database: Database) -> None:
    async with database.tenant(ACME) as connection:
        pid = connection.get_server_pid()
        assert await connection.fetchval("select current_setting('app.current_org_id')") == ACME
    async with database.system() as connection:
        assert connection.get_server_pid() == pid
        assert await connection.fetchval("select current_setting('app.current_org_id', true)") == ""


async def test_an_error_rolls_the_transaction_back_and_leaves_the_connection_usable(
    database: Database, superuser: asyncpg.Connection
) -> None:
    await superuser.execute(NOTES)

    async def fail_inside() -> None:
        async with database.tenant(ACME) as connection:
            await connection.execute("insert into notes values ($1, 'gone')", ACME)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()
    async with database.tenant(ACME) as connection:
        assert await connection.fetchval("select count(*) from notes") == 0


async def test_a_cancelled_statement_rolls_back_and_leaves_the_connection_usable(
    database: Database, superuser: asyncpg.Connection
) -> None:
    await superuser.execute(NOTES)
    is_inside = asyncio.Event()

    async def sleep_inside() -> None:
        async with database.tenant(ACME) as connection:
            await connection.execute("insert into notes values ($1, 'gone')", ACME)
            is_inside.set()
            await connection.execute("select pg_sleep(30)")

    sleeping = asyncio.ensure_future(sleep_inside())
    await is_inside.wait()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    async with database.tenant(ACME) as connection:
        assert await connection.fetchval("select count(*) from notes") == 0


async def test_a_lost_connection_tells_its_own_error_and_the_pool_goes_on(
    database: Database, superuser: asyncpg.Connection
) -> None:
    async def lose_it_inside() -> None:
        async with database.tenant(ACME) as connection:
            await superuser.execute("select pg_terminate_backend($1, 5000)", connection.get_server_pid())
            await connection.fetchval("select 1")

    with pytest.raises((*LOST_CONNECTION, asyncpg.AdminShutdownError)):
        await lose_it_inside()
    assert await database.fetchval_system("select 1") == 1


@pytest.mark.parametrize("org", ["", "x'; drop table users; --", "01890000"])
def test_what_is_not_a_uuid_never_reaches_the_text_of_a_statement(org: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        begin_as(OrgId(org))


async def test_json_goes_in_and_comes_out_undecoded(database: Database) -> None:
    document = b'{"a": [1, 2.50, "\xc3\xa9"], "b": null}'
    assert await database.fetchval_system("select $1::jsonb", document) == document
    assert await database.fetchval_system("select $1::jsonb", msgspec.Raw(b"[1]")) == b"[1]"
    assert await database.fetchval_system("select $1::jsonb[]", [b"1", "true"]) == [b"1", b"true"]
    assert await database.fetchval_system("select null::jsonb") is None


async def test_statements_are_limited_in_time(database: Database) -> None:
    settings = await database.fetch_system(
        "select current_setting(name) as value from unnest($1::text[]) as name",
        ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"],
    )
    assert [row["value"] for row in settings] == ["10s", "2s", "5s"]


async def test_start_and_stop_may_be_called_twice(database_url: str) -> None:
    database = Database(database_url, min_size=1)
    await asyncio.gather(database.start(), database.start())
    assert await database.is_ready()
    await asyncio.gather(database.stop(), database.stop())
    assert not await database.is_ready()
    with pytest.raises(DatabaseUnavailable):
        await database.fetchval_system("select 1")


async def test_an_unreachable_server_is_told_as_such_without_the_password() -> None:
    with pytest.raises(DatabaseUnavailable) as unavailable:
        await Database("postgresql://me:canary@127.0.0.1:1/x").start()
    assert "canary" not in str(unavailable.value)


async def test_a_cluster_without_our_role_says_that_it_was_not_migrated(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Roles belong to the whole cluster, and another test may have migrated it: ask for one nobody makes.
    monkeypatch.setattr("vespid.store.pool.SERVICE_ROLE", "vespid_service_of_nobody")
    with pytest.raises(SchemaMissing, match="vespid migrate"):
        await Database(empty_database_url).start()


async def test_a_database_that_is_at_another_revision_is_refused(
    empty_database_url: str, database_url: str, migrated_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The roles stand: another database of the cluster is migrated.
    with pytest.raises(SchemaMissing, match="run `vespid migrate` first"):
        await Database(empty_database_url).start()
    await migrate(database_url, "0002")
    with pytest.raises(SchemaMissing, match=rf"is at revision 0002, and {newest_revision()} is needed"):
        await Database(database_url).start()
    monkeypatch.setattr("vespid.store.pool.newest_revision", lambda: "0001")
    with pytest.raises(SchemaMissing, match="run the newer one"):
        await Database(database_url).start()
    await migrate(database_url, "base")
    with pytest.raises(SchemaMissing, match="run `vespid migrate` first"):
        await Database(database_url).start()
