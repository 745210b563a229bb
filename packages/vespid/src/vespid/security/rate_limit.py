"""Limits on failures: who guesses is slowed down, who succeeds is never counted.

Failures are counted per bucket ("login", "pairing", …) and subject (an address of a client, of a person) in windows of
fixed length: in Redis where it answers, so that all processes count together, else in this process alone.
"""

import hashlib
import time
from collections.abc import Callable

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger("vespid.security.rate_limit")

# Counters kept in this process while Redis is away; beyond that, the oldest windows are forgotten.
MAX_LOCAL_COUNTERS = 10_000


class RateLimit(msgspec.Struct, frozen=True):
    """So many failures per window; the next attempt waits for the window's end."""

    failures: int
    window_s: int
    enabled: bool = True


_COUNT_ONE_MORE = """
local n = redis.call('incr', KEYS[1])
if n == 1 then redis.call('expire', KEYS[1], ARGV[1]) end
return n
"""


class FailureLimiter:
    """Counts failures, and says how long somebody has to wait."""

    def __init__(
        self,
        limit: RateLimit,
        redis: Redis | None = None,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._limit = limit
        self._redis = redis
        self._now_s = now_s
        # (key of the window) → failures, oldest window first.
        self._local: dict[str, int] = {}

    async def retry_after_s(self, bucket: str, subject: str, *, allowance: int = 1) -> int | None:
        """Seconds to wait before the next attempt, or None: go on.

        `allowance` multiplies the limit, for subjects that stand for many people, as the address of an office.
        """
        if not self._limit.enabled:
            return None
        key, rest_s = self._window(bucket, subject)
        failures = await self._read(key)
        return rest_s if failures >= self._limit.failures * allowance else None

    async def record_failure(self, bucket: str, subject: str) -> None:
        """Count one failure."""
        if not self._limit.enabled:
            return
        key, _ = self._window(bucket, subject)
        if self._redis is not None:
            try:
                await self._redis.eval(_COUNT_ONE_MORE, 1, key, self._limit.window_s + 1)
                return
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("rate_limit_counts_locally", error=repr(error))
        self._local[key] = self._local.get(key, 0) + 1
        while len(self._local) > MAX_LOCAL_COUNTERS:
            del self._local[next(iter(self._local))]

    async def _read(self, key: str) -> int:
        local = self._local.get(key, 0)
        if self._redis is None:
            return local
        try:
            return max(local, int(await self._redis.get(key) or 0))
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("rate_limit_counts_locally", error=repr(error))
            return local

    def _window(self, bucket: str, subject: str) -> tuple[str, int]:
        """The window's key, and the whole seconds until it ends. Addresses of people are not kept in clear."""
        now = self._now_s()
        number = int(now // self._limit.window_s)
        digest = hashlib.sha256(subject.encode("utf-8", "replace")).hexdigest()[:32]
        rest_s = max(1, int((number + 1) * self._limit.window_s - now + 0.999))
        return f"vespid:failures:{bucket}:{{{digest}}}:{number}", rest_s
