"""Whether the process lives, whether its neighbours answer, and its figures."""

import asyncio

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.errors import ApiError

READY_TIMEOUT_S = 2.0


class Health(msgspec.Struct, frozen=True):
    """The process lives."""

    ok: bool


class Readiness(msgspec.Struct, frozen=True):
    """The process and what it stands on."""

    ok: bool
    postgres: bool
    redis: bool


@get("/healthz", operation_id="healthz", tags=["health"])
async def healthz() -> Health:
    """The process lives."""
    return Health(ok=True)


@get("/readyz", operation_id="readyz", responses=errors(503), tags=["health"])
async def readyz(deps: NamedDependency[Deps]) -> Readiness:
    """Postgres and Redis answer."""
    postgres, redis = await asyncio.gather(deps.database.is_ready(), _redis_answers(deps))
    if not (postgres and redis) or deps.stopping.is_set():
        raise ApiError(503, "NOT_READY", "A neighbour does not answer.", {"postgres": postgres, "redis": redis})
    return Readiness(ok=True, postgres=True, redis=True)


@get("/metrics", operation_id="metrics", include_in_schema=False)
async def metrics() -> Response[bytes]:
    """The process's figures, for Prometheus."""
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST}, media_type="text/plain")


async def _redis_answers(deps: Deps) -> bool:
    if deps.redis is None:
        return True
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            return bool(await deps.redis.ping())
    except (RedisError, OSError, TimeoutError):
        return False


routes = [healthz, readyz, metrics]
