"""postgres.query against a real server."""

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import pytest
from tests.support.forward import forwarded
from tests.support.servers import PostgresServer

from vespid_runtime.connectors import ActionContext, ConnectorError, registry
from vespid_runtime.connectors.postgres import parse_dsn

from .conftest import MakeContext

CONNECTORS = registry(())
Query = Callable[..., Awaitable[dict[str, object]]]


@pytest.fixture
async def dsn(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The server under a name, so that the guard has something to resolve.

    The embedded one listens on a socket file only: there its connections come in at a port of ours.
    """
    parts = urlsplit(postgres_server.url("postgres"))
    login, _, address = parts.netloc.rpartition("@")
    if address:
        yield f"postgresql://{login}@db.local.example:{parts.port or 5432}{parts.path}"
        return
    options = dict(parse_qsl(parts.query))

    async with forwarded(f"{options['host']}/.s.PGSQL.{options['port']}") as port:
        yield f"postgresql://{login}@db.local.example:{port}{parts.path}"


@pytest.fixture
def query(make_context: MakeContext, dsn: str) -> Query:
    """A statement run by the connector, in a context of its own unless one is given."""

    async def run(
        sql: str, *params: object, secret: str = dsn, context: ActionContext | None = None, **more: object
    ) -> dict[str, object]:
        given = {"sql": sql, "params": list(params)} | more
        output = await CONNECTORS.run("postgres", "query", given, secret, context or make_context())
        assert isinstance(output, dict)
        return output

    return run


async def test_parameters_are_bound_and_rows_come_back_as_json(query: Query) -> None:
    key = str(uuid.uuid4())
    output = await query(
        "select $1::int as a, $2::text as b, $3::uuid as c, $4::timestamptz as d, $5::jsonb as e, $6::numeric as f,"
        " $7::bytea as g, $8::int[] as h, null as i, $9::bool as j",
        41, "'; drop table x; --", key, "2026-01-02T03:04:05Z", {"k": [1]}, "1.10", "AP8=", [1, 2], True,
    )  # fmt: skip
    assert output == {
        "rows": [
            {
                "a": 41,
                "b": "'; drop table x; --",
                "c": key,
                "d": "2026-01-02T03:04:05+00:00",
                "e": {"k": [1]},
                "f": "1.10",
                "g": "AP8=",
                "h": [1, 2],
                "i": None,
                "j": True,
            }
        ],
        "rowCount": 1,
        "truncated": False,
    }


async def test_writing_statements_say_how_many_rows_they_touched(query: Query) -> None:
    table = f"t_{uuid.uuid4().hex}"
    assert await query(f"create table {table} (n int)") == {"rows": [], "rowCount": 0, "truncated": False}
    try:
        assert (await query(f"insert into {table} select generate_series(1,7)"))["rowCount"] == 7
        returned = await query(f"update {table} set n = n + 1 where n < 3 returning n")
        assert returned["rows"] == [{"n": 2}, {"n": 3}]
        with pytest.raises(ConnectorError) as refused:
            await query(f"delete from {table}", readOnly=True)
        assert refused.value.code == "POSTGRES_QUERY_FAILED:25006"
        assert (await query(f"select count(*) as n from {table}"))["rows"] == [{"n": 7}]
    finally:
        await query(f"drop table {table}")


async def test_rows_and_bytes_are_capped(query: Query) -> None:
    many = await query("select g from generate_series(1, 1000000) g")
    assert (many["rowCount"], many["truncated"]) == (100, True)
    asked = await query("select g from generate_series(1, 3) g", maxRows=3)
    assert (asked["rowCount"], asked["truncated"]) == (3, False)
    wide = await query("select repeat('x', 6000) as x from generate_series(1, 50)")
    assert (wide["rowCount"], wide["truncated"]) == (3, True)


async def test_long_statement_ends_on_the_server_too(query: Query, postgres_server: PostgresServer) -> None:
    marker = f"marker_{uuid.uuid4().hex}"
    with pytest.raises(ConnectorError) as late:
        await query(f"select pg_sleep(30) as {marker}", timeoutMs=200)
    assert (late.value.code, late.value.retryable) == ("NODE_EXECUTION_TIMEOUT", True)
    connection = await asyncpg.connect(postgres_server.url("postgres"))
    try:
        running = "select count(*) from pg_stat_activity where query like $1 and state = 'active' and pid <> $2"
        own = connection.get_server_pid()
        while await connection.fetchval(running, f"%{marker}%", own):
            pass  # bounded by the test's own timeout
    finally:
        await connection.close()


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    ("sql", "params", "field"),
    [
        ("select $1::int", ["many"], "params[0]"),
        ("select $1::int, $2::uuid", [1, "no"], "params[1]"),
        ("select $1::int", [], "params"),
        ("select 1", [1], "params"),
        ("", [], "sql"),
    ],
)
async def test_bad_parameters_name_the_field(query: Query, sql: str, params: list[object], field: str) -> None:
    with pytest.raises(ConnectorError) as refused:
        await query(sql, *params)
    assert (refused.value.code, refused.value.details) == ("INVALID_ACTION_INPUT", {"field": field})


@pytest.mark.parametrize(
    ("sql", "code"),
    [("selec 1", "42601"), ("select * from no_such_table", "42P01"), ("select 1; select 2", "42601")],
)
async def test_errors_of_the_statement_are_final(query: Query, sql: str, code: str) -> None:
    with pytest.raises(ConnectorError) as failed:
        await query(sql)
    assert (failed.value.code, failed.value.retryable) == (f"POSTGRES_QUERY_FAILED:{code}", False)


async def test_host_of_the_connection_string_is_under_the_guard(
    query: Query, dsn: str, make_context: MakeContext
) -> None:
    for secret in (dsn, "postgresql://u:p@10.0.0.1/x", "postgresql://u:p@other.example/x"):
        with pytest.raises(ConnectorError) as denied:
            await query("select 1", secret=secret, context=make_context(guarded=True))
        assert denied.value.code == "EGRESS_DENIED"


async def test_closed_port_is_worth_a_retry(query: Query) -> None:
    with pytest.raises(ConnectorError) as failed:
        await query("select 1", secret="postgresql://u:p@db.local.example:9/x")
    assert (failed.value.code, failed.value.retryable) == ("POSTGRES_UNREACHABLE", True)


async def test_verified_tls_refuses_a_server_without_tls(query: Query, dsn: str) -> None:
    with pytest.raises(ConnectorError) as failed:
        await query("select 1", secret=f"{dsn}?sslmode=verify-full")
    assert failed.value.code == "POSTGRES_UNREACHABLE"
    assert (await query("select 1 as n", secret=f"{dsn}?sslmode=disable"))["rowCount"] == 1


@pytest.mark.promise("P10")
async def test_verified_tls_refuses_a_certificate_it_cannot_trust(query: Query, tls: ssl.SSLContext) -> None:
    told = bytearray()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S")
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.start_tls(tls)
            told.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        secret = f"postgresql://u:hunter2@db.local.example:{port}/x?sslmode=verify-full"
        with pytest.raises(ConnectorError) as failed:
            await query("select 1", secret=secret)
    assert (failed.value.code, failed.value.retryable) == ("POSTGRES_UNREACHABLE", False)
    assert "not trusted" in str(failed.value)
    assert not told


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    "secret",
    [
        "hunter2", "mysql://u:hunter2@h/x", "postgresql:///x?host=/var/run", "postgresql://u:hunter2@a,b/x",
        "postgresql://u:hunter2@%2Fvar%2Frun/x", "postgresql://u:hunter2@h/x?service=s", "postgresql://h/x",
        "postgresql://u:hunter2@h/x?host=evil", "postgresql://u:hunter2@h/x?sslmode=maybe", "postgresql://u:p@h:x/y",
        "postgresql://u:hunter2@h/x?passfile=/etc/shadow", "postgresql://u:hunter2@[::1/x",
    ],
)  # fmt: skip
def test_connection_strings_that_reach_elsewhere_are_refused_without_quoting_them(secret: str) -> None:
    with pytest.raises(ConnectorError) as refused:
        parse_dsn(secret)
    assert refused.value.details == {"field": "auth.secretId"}
    assert "hunter2" not in str(refused.value)
