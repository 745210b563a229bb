"""What the database itself says of tenancy: every tenant table is bound, and what crosses tenants is a closed list."""

import asyncpg
import pytest
from tests.support.servers import OWNER

from vespid.store.cross_tenant import CROSS_TENANT_FUNCTIONS, RUN_AS_OWNER, TABLES_OF_NO_TENANT

pytestmark = pytest.mark.promise("P5")

Connection = asyncpg.Connection


async def test_every_table_is_a_tenants_or_known_to_be_nobodys(superuser: "Connection") -> None:
    rows = await superuser.fetch(
        """
        select c.relname from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and not (c.relrowsecurity and c.relforcerowsecurity)
        """
    )
    assert {row["relname"] for row in rows} == TABLES_OF_NO_TENANT | {"alembic_version"}


async def test_every_table_with_an_organization_has_forced_row_level_security(superuser: "Connection") -> None:
    rows = await superuser.fetch(
        """
        select c.relname, c.relrowsecurity and c.relforcerowsecurity as forced,
            (select count(*) from pg_policy p where p.polrelid = c.oid) as policies
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not a.attisdropped
        """
    )
    assert len(rows) > 8
    # The control feed is read by every process on behalf of all; what is in it are ids.
    bare = {row["relname"] for row in rows if not row["forced"] or not row["policies"]}
    assert bare == {"control_feed"}


async def test_every_policy_of_a_tenant_table_compares_with_the_current_organization(superuser: "Connection") -> None:
    rows = await superuser.fetch(
        """
        select c.relname, pg_get_expr(p.polqual, p.polrelid) as shown, pg_get_expr(p.polwithcheck, p.polrelid) as kept
        from pg_policy p join pg_class c on c.oid = p.polrelid where c.relnamespace = 'public'::regnamespace
        """
    )
    for row in rows:
        for expression in filter(None, (row["shown"], row["kept"])):
            assert "NULLIF(current_setting('app.current_org_id'::text, true), ''::text)" in expression, row["relname"]


async def test_what_crosses_tenants_is_the_closed_list(superuser: "Connection") -> None:
    rows = await superuser.fetch(
        """
        select p.proname, p.prosecdef, r.rolname as owner, coalesce(array_to_string(p.proconfig, ','), '') as config
        from pg_proc p join pg_roles r on r.oid = p.proowner
        where p.pronamespace = 'public'::regnamespace and (p.prosecdef or r.rolname = 'vespid_cross')
        """
    )
    assert {row["proname"] for row in rows} == CROSS_TENANT_FUNCTIONS
    for row in rows:
        assert row["prosecdef"], row["proname"]
        assert (row["owner"] == "vespid_cross") == (row["proname"] not in RUN_AS_OWNER), row["proname"]
        assert row["config"].startswith("search_path=pg_catalog, public"), row["proname"]


async def test_only_the_service_role_may_cross(superuser: "Connection") -> None:
    rows = await superuser.fetch(
        """
        select p.proname,
            has_function_privilege('vespid_service', p.oid, 'execute') as service,
            exists (select from aclexplode(p.proacl) a where a.grantee = 0) or p.proacl is null as everybody
        from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosecdef
        """
    )
    assert [row["proname"] for row in rows if not row["service"] or row["everybody"]] == []


async def test_the_service_role_owns_nothing_and_bypasses_nothing(superuser: "Connection") -> None:
    role = await superuser.fetchrow(
        "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles where rolname = 'vespid_service'"
    )
    assert role is not None
    assert not any(role.values())
    owned = await superuser.fetchval(
        """
        select count(*) from (
            select relowner as owner from pg_class union all select proowner from pg_proc
            union all select nspowner from pg_namespace
        ) everything join pg_roles r on r.oid = everything.owner where r.rolname = 'vespid_service'
        """
    )
    assert owned == 0


async def test_nobody_logs_in_as_the_crossing_role_and_only_who_migrates_is_a_member(superuser: "Connection") -> None:
    assert not await superuser.fetchval("select rolcanlogin from pg_roles where rolname = 'vespid_cross'")
    members = await superuser.fetchval(
        """select array_agg(distinct r.rolname::text) from pg_auth_members m join pg_roles r on r.oid = m.member
        where m.roleid = 'vespid_cross'::regrole"""
    )
    assert members == [OWNER]


async def test_a_transaction_without_a_tenant_sees_no_tenants_rows(superuser: "Connection") -> None:
    tables = await superuser.fetch(
        """
        select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relforcerowsecurity
            and a.attnotnull and not c.relispartition
            and has_table_privilege('vespid_service', c.oid, 'select')
        """
    )
    assert tables
    org = await superuser.fetchval(
        "insert into organizations (id, slug, name) values (gen_random_uuid(), 'seen-by-none', 'Seen') returning id"
    )
    user = await superuser.fetchval(
        "insert into users (id, email, password_hash) values (gen_random_uuid(), 'a@b.c', 'x') returning id"
    )
    await superuser.execute(
        "insert into memberships (organization_id, user_id, role) values ($1, $2, 'owner')", org, user
    )
    await superuser.execute("set role vespid_service")
    for table in (*(row["relname"] for row in tables), "organizations"):
        assert await superuser.fetchval(f'select count(*) from "{table}"') == 0, table
    await superuser.execute("select set_config('app.current_org_id', $1, false)", str(org))
    assert await superuser.fetchval("select count(*) from memberships") == 1
