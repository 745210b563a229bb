"""`postgres.query`: one statement with bound parameters, its rows capped by number and size.

The secret is the connection string, `postgresql://user:password@host[:port]/database[?sslmode=…]`. Only what is in it
is used: no service or password files, no `PG*` variables, no client certificates of the machine this happens to run on.
sslmode: disable, prefer (default), require (encrypts, checks nothing, as libpq does), verify-full (and verify-ca, which
we hold to the name as well), checked against the system's authorities.
"""

import asyncio
import decimal
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
import msgspec
from asyncpg import prepared_stmt

from vespid_runtime.connectors.contract import (
    Action,
    ActionContext,
    ActionInput,
    Connector,
    ConnectorError,
    invalid_input,
)
from vespid_runtime.connectors.postgres_values import bound_value, json_value
from vespid_runtime.egress.connect import named_context

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

_FETCH_ROWS = 50
# Classes of SQLSTATE after which the same statement may pass: connection, resources, operator's shutdown, conflict.
_PASSING_CLASSES = ("08", "53", "57", "40", "55")


class QueryInput(ActionInput, frozen=True):
    sql: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
    params: Annotated[list[object], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=list)
    max_rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # Runs in a read-only transaction: a statement that writes fails.
    read_only: bool = False
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What we use of a connection string."""

    host: str
    port: int
    user: str
    password: str
    database: str
    sslmode: SslMode


async def query(input: QueryInput, secret: str | None, context: ActionContext) -> object:
    target = parse_dsn(secret or "")
    seconds = context.remaining_s(input.timeout_ms)
    try:
        async with asyncio.timeout(seconds):
            connection = await _connect(target, context, seconds)
            try:
                return await _run(connection, input, context)
            finally:
                # Not close(): that waits for the server, and there is nothing left to say to it.
                connection.terminate()
    except asyncpg.PostgresError as refused:
        raise _refused(refused) from refused
    except asyncpg.InterfaceError as misused:
        raise ConnectorError("POSTGRES_QUERY_FAILED", f"the driver refuses: {type(misused).__name__}") from misused
    except OSError as unreachable:
        if isinstance(unreachable, TimeoutError):
            raise
        if isinstance(unreachable, ssl.SSLCertVerificationError):
            raise ConnectorError(
                "POSTGRES_UNREACHABLE", f"the certificate of {target.host} is not trusted"
            ) from unreachable
        message = f"{target.host}:{target.port} cannot be reached ({type(unreachable).__name__})"
        raise ConnectorError("POSTGRES_UNREACHABLE", message, retryable=True) from unreachable


def parse_dsn(dsn: str) -> Target:
    """Raises `ConnectorError` (the text never quotes the string)."""

    def bad(problem: str) -> ConnectorError:
        return invalid_input("auth.secretId", f"the connection string {problem}")

    try:
        parts = urlsplit(dsn.strip())
        port, host = parts.port or 5432, parts.hostname
    except ValueError:
        raise bad("cannot be parsed") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise bad("does not begin with postgresql://")
    if not host or "," in parts.netloc or "/" in unquote(host):
        raise bad("must name exactly one host, reached over TCP")
    if not parts.username:
        raise bad("names no user")
    sslmode: SslMode = "prefer"
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key == "sslmode":
            if value not in get_args(SslMode):
                raise bad(f"has an sslmode other than {', '.join(get_args(SslMode))}")
            sslmode = next(mode for mode in get_args(SslMode) if mode == value)
        elif key not in ("application_name", "connect_timeout"):
            raise bad("has an option other than sslmode, application_name, connect_timeout")
    user = unquote(parts.username)
    database = unquote(parts.path.lstrip("/")) or user
    return Target(host, port, user, unquote(parts.password or ""), database, sslmode)


async def _connect(target: Target, context: ActionContext, seconds: float) -> asyncpg.Connection:
    failure: OSError | None = None
    for address in await context.guard.addresses(target.host, target.port):
        try:
            return await _connect_address(target, str(address), seconds)
        except OSError as unreachable:
            failure = unreachable
    raise failure or OSError("no address")


async def _connect_address(target: Target, address: str, seconds: float) -> asyncpg.Connection:
    async def attempt(encrypted: bool) -> asyncpg.Connection:
        verify = target.sslmode in ("verify-ca", "verify-full")
        return await asyncpg.connect(
            host=address,
            port=target.port,
            user=target.user,
            password=target.password,
            database=target.database,
            ssl=named_context(target.host, verify=verify) if encrypted else False,
            timeout=seconds,
            statement_cache_size=0,
            server_settings={"application_name": "vespid"},
        )

    if target.sslmode == "disable":
        return await attempt(encrypted=False)
    try:
        return await attempt(encrypted=True)
    except ConnectionError as refused:
        # asyncpg has no type of its own for a server that answers "no TLS here".
        if target.sslmode == "prefer" and "rejected SSL upgrade" in str(refused):
            return await attempt(encrypted=False)
        raise


async def _run(connection: asyncpg.Connection, input: QueryInput, context: ActionContext) -> object:
    timeout_ms = max(1, int(context.remaining_s(input.timeout_ms) * 1000))
    async with connection.transaction(readonly=input.read_only):
        # Local to the transaction and so safe behind a pooler. It ends the work on the server's side as well.
        await connection.execute(f"SET LOCAL statement_timeout = {timeout_ms}")
        statement = await connection.prepare(input.sql)
        arguments = _bound(statement, input.params)
        if not statement.get_attributes():
            await statement.fetch(*arguments)
            return {"rows": [], "rowCount": _affected(statement.get_statusmsg()), "truncated": False}
        max_rows = min(input.max_rows or context.limits.max_rows, context.limits.max_rows)
        return await _rows(statement, arguments, max_rows, context.limits.response_max_bytes)


def _bound(statement: prepared_stmt.PreparedStatement, params: Sequence[object]) -> list[object]:
    types = statement.get_parameters()
    if len(types) != len(params):
        raise invalid_input("params", f"the statement takes {len(types)}, {len(params)} given")
    arguments: list[object] = []
    for index, (kind, value) in enumerate(zip(types, params, strict=True)):
        try:
            arguments.append(bound_value(kind.name, value))
        except (ValueError, TypeError, decimal.InvalidOperation):
            raise invalid_input(f"params[{index}]", f"is not a value for type {kind.name}") from None
    return arguments


async def _rows(
    statement: prepared_stmt.PreparedStatement, arguments: Sequence[object], max_rows: int, max_bytes: int
) -> object:
    try:
        cursor = await statement.cursor(*arguments)
    except asyncpg.DataError as wrong:
        raise invalid_input("params", str(wrong)[:300]) from None
    columns = [(attribute.name, attribute.type.name) for attribute in statement.get_attributes()]
    rows: list[dict[str, object]] = []
    size, truncated = 2, False
    while not truncated:
        batch = await cursor.fetch(min(_FETCH_ROWS, max_rows - len(rows) + 1))
        if not batch:
            break
        for record in batch:
            row = {name: json_value(kind, value) for (name, kind), value in zip(columns, record, strict=True)}
            size += len(msgspec.json.encode(row)) + 1
            if len(rows) == max_rows or size > max_bytes:
                truncated = True
                break
            rows.append(row)
    return {"rows": rows, "rowCount": len(rows), "truncated": truncated}


def _affected(status: str) -> int:
    """The number at the end of a command tag (`UPDATE 3`); 0 for one without (`CREATE TABLE`)."""
    last = status.rsplit(" ", 1)[-1]
    return int(last) if last.isdecimal() else 0


def _refused(error: asyncpg.PostgresError) -> ConnectorError:
    state = error.sqlstate or ""
    if isinstance(error, asyncpg.QueryCanceledError):
        return ConnectorError("NODE_EXECUTION_TIMEOUT", "the statement ran into its timeout", retryable=True)
    # The primary message is the server's own sentence about the statement; detail lines quote rows and stay out.
    message = str(error.message if hasattr(error, "message") else error)[:500]
    code = f"POSTGRES_QUERY_FAILED:{state}" if state else "POSTGRES_QUERY_FAILED"
    return ConnectorError(code, message, retryable=state.startswith(_PASSING_CLASSES), details={"sqlstate": state})


connector = Connector(
    id="postgres",
    display_name="PostgreSQL",
    requires_secret=True,
    actions=(Action("query", QueryInput, query, "Run one SQL statement on PostgreSQL; $1, $2 … stand for params."),),
)
