"""What routes are given: one object, made at start, handed to every handler that asks for `deps`."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from redis.asyncio import Redis

from vespid.bus.ports import Fanout, Mail
from vespid.control.gateways import Gateways
from vespid.control.mcp_endpoint import McpEndpoint
from vespid.control.overviews import Overviews
from vespid.dispatch.callers import Callers
from vespid.dispatch.conversation import Conversation
from vespid.dispatch.feed import ControlFeed
from vespid.dispatch.memory_search import MemorySearch
from vespid.dispatch.plans import Plans
from vespid.security.access_tokens import AccessTokens
from vespid.security.envelope import Keyring
from vespid.security.passwords import Passwords
from vespid.security.rate_limit import FailureLimiter
from vespid.security.refresh_tokens import RefreshTokens
from vespid.settings import ApiSettings
from vespid.store.pool import Database
from vespid.store.runs import Created, NewRun


def epoch_ms() -> int:
    """The clock of the process, in epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Runs(Protocol):
    """Creates runs, several callers' as one commit."""

    async def create(self, run: NewRun) -> Created:
        """The run is committed when this returns. Raises what `GroupCommit.submit` raises."""
        ...


@dataclass(frozen=True, kw_only=True)
class Deps:
    """The control plane's neighbours. A noun that needs another adds a field."""

    settings: ApiSettings
    database: Database
    # Who calls, and whether they may stay.
    callers: Callers
    passwords: Passwords
    access_tokens: AccessTokens
    refresh_tokens: RefreshTokens
    limiter: FailureLimiter
    # What people do to sessions.
    conversation: Conversation
    # Fails fast; None where the process runs without Redis, which `readyz` then does not ask.
    redis: Redis | None = None
    # Opens and seals secrets; None where no KEK was given: 503 SECRETS_NOT_CONFIGURED.
    keyring: Keyring | None = None
    # None where this process accepts none: 503 QUEUE_UNAVAILABLE.
    runs: Runs | None = None
    # Plans of published revisions, for looking at runs; None: read anew each time.
    plans: Plans | None = None
    # Wakes workers, and carries hints; without them sweeps and re-reads do it, later.
    mail: Mail | None = None
    fanout: Fanout | None = None
    # Asks gateways about hosts; None where this process knows none: 503 GATEWAY_NOT_CONFIGURED.
    gateways: Gateways | None = None
    memory_search: MemorySearch = field(default_factory=MemorySearch)
    overviews: Overviews = field(default_factory=Overviews)
    mcp: McpEndpoint = field(default_factory=McpEndpoint)
    # What changes elsewhere and ends streams here.
    feed: ControlFeed | None = None
    now_ms: Callable[[], int] = epoch_ms
    # Set when the service begins to stop: whoever streams ends then.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
