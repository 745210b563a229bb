"""What routes are given: one object, made at start, handed to every handler that asks for `deps`."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from redis.asyncio import Redis

from vespid.security.access_tokens import AccessTokens
from vespid.security.passwords import Passwords
from vespid.security.rate_limit import FailureLimiter
from vespid.security.refresh_tokens import RefreshTokens
from vespid.settings import ApiSettings
from vespid.store.pool import Database


def epoch_ms() -> int:
    """The clock of the process, in epoch milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Deps:
    """The control plane's neighbours. A noun that needs another adds a field."""

    settings: ApiSettings
    database: Database
    passwords: Passwords
    access_tokens: AccessTokens
    refresh_tokens: RefreshTokens
    limiter: FailureLimiter
    # Fails fast; None where the process runs without Redis, which `readyz` then does not ask.
    redis: Redis | None = None
    now_ms: Callable[[], int] = epoch_ms
    # Set when the service begins to stop: whoever streams ends then.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
