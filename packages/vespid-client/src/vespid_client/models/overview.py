"""An organization at a glance, and the hints that it has changed."""

from vespid_client.models.model import Model


class FleetCounts(Model, frozen=True, kw_only=True):
    """The agents, and what they can take."""

    online: int
    offline: int
    cordoned: int
    revoked: int
    capacity: int
    in_flight: int


class QueueCounts(Model, frozen=True, kw_only=True):
    """What waits and what is at work."""

    runs_queued: int
    runs_running: int
    requests_pending: int
    requests_leased: int
    oldest_pending_seconds: float | None
    waiting_approvals: int


class Bucket(Model, frozen=True, kw_only=True):
    """What happened in one stretch of time that begins `at`; a latency is None where nothing was measured."""

    at: str
    runs_started: int
    runs_succeeded: int
    runs_failed: int
    runs_cancelled: int
    run_p50_ms: float | None
    run_p95_ms: float | None
    queue_p50_ms: float | None
    queue_p95_ms: float | None


class Overview(Model, frozen=True, kw_only=True):
    """An organization at a glance."""

    agents: FleetCounts
    queue: QueueCounts
    buckets: list[Bucket]


class Hint(Model, frozen=True, kw_only=True):
    """Something of this kind has changed: read it again. `hello` comes first, and after each lost connection."""

    kind: str
    id: str | None = None
    at: str | None = None
