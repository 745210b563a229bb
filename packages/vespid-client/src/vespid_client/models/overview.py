"""An organization at a glance, and the hints that it has changed."""

from vespid_client.models.model import Model


class AgentsNow(Model, frozen=True, kw_only=True):
    """The agents; `capacity` is of those online that are given work."""

    online: int
    offline: int
    cordoned: int
    revoked: int
    capacity: int
    in_flight: int


class QueueNow(Model, frozen=True, kw_only=True):
    """What waits and what is at work."""

    runs_queued: int
    runs_running: int
    requests_pending: int
    requests_leased: int
    oldest_pending_seconds: int | None
    waiting_approvals: int


class Bucket(Model, frozen=True, kw_only=True):
    """From `at` on: runs accepted then, and those that ended then their times; None: none did."""

    at: str
    runs_started: int
    runs_succeeded: int
    runs_failed: int
    runs_cancelled: int
    run_p50_ms: int | None
    run_p95_ms: int | None
    queue_p50_ms: int | None
    queue_p95_ms: int | None


class Overview(Model, frozen=True, kw_only=True):
    """An organization at a glance."""

    agents: AgentsNow
    queue: QueueNow
    buckets: list[Bucket]


class Hint(Model, frozen=True, kw_only=True):
    """Something of this kind has changed: read it again. `hello` comes first, and after each lost connection."""

    kind: str
    at: str
    # Where it was one thing alone.
    id: str | None = None
