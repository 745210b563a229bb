"""Migrations: up, down, and two at once."""

import asyncio

import asyncpg
import pytest

from vespid.store.migrate import MigrationFailed, migrate
from vespid.store.pool import MIGRATIONS, DatabaseUnavailable

REVISIONS = sorted(file.name.split("_")[0] for file in (MIGRATIONS / "versions").glob("*.up.sql"))

# What a schema consists of, but for Alembic's own table.
CATALOGUE = """
select format('%s %s', c.relkind, c.relname) as thing from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relname not like 'alembic_version%'
union select format('function %s(%s)', p.proname, pg_get_function_identity_arguments(p.oid))
from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'public'
union select format('type %s', t.typname) from pg_type t join pg_namespace n on n.oid = t.typnamespace
where n.nspname = 'public' and t.typtype in ('e', 'd') order by 1
"""


async def catalogue(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row["thing"] for row in await connection.fetch(CATALOGUE)]
    finally:
        await connection.close()


def test_every_step_has_its_python_file_its_way_up_and_its_way_down() -> None:
    versions = MIGRATIONS / "versions"
    names = {file.name.removesuffix(".py") for file in versions.glob("0*.py")}
    assert names == {file.name.removesuffix(".up.sql") for file in versions.glob("*.up.sql")}
    assert names == {file.name.removesuffix(".down.sql") for file in versions.glob("*.down.sql")}
    assert len(REVISIONS) == len(set(REVISIONS))


async def test_each_step_down_undoes_its_step_up(empty_database_url: str) -> None:
    stations = ["base", *REVISIONS]
    seen = {"base": await catalogue(empty_database_url)}
    for revision in REVISIONS:
        assert await migrate(empty_database_url, revision) == revision
        seen[revision] = await catalogue(empty_database_url)
    for revision in reversed(stations[:-1]):
        assert await migrate(empty_database_url, revision) == revision
        assert await catalogue(empty_database_url) == seen[revision], f"down to {revision}"
    assert await migrate(empty_database_url) == REVISIONS[-1]
    assert await catalogue(empty_database_url) == seen[REVISIONS[-1]]


async def test_a_second_migration_changes_nothing(database_url: str) -> None:
    before = await catalogue(database_url)
    assert await migrate(database_url) == REVISIONS[-1]
    assert await catalogue(database_url) == before


async def test_two_migrators_at_once_are_safe(empty_database_url: str) -> None:
    assert await asyncio.gather(*(migrate(empty_database_url) for _ in range(3))) == [REVISIONS[-1]] * 3


async def test_a_schema_made_by_other_steps_is_refused_and_left_alone(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for made_by in ("'steps 0123'", "null"):
            await connection.execute(f"comment on table alembic_version is {made_by}")
            before = await catalogue(database_url)
            for target in ("head", "base"):
                with pytest.raises(MigrationFailed, match="unreleased version"):
                    await migrate(database_url, target)
            assert await catalogue(database_url) == before
    finally:
        await connection.close()


async def test_an_unknown_revision_is_refused(database_url: str) -> None:
    with pytest.raises(MigrationFailed, match="9999"):
        await migrate(database_url, "9999")


async def test_a_server_that_is_away_is_told_as_such() -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate("postgresql://me@127.0.0.1:1/x")
