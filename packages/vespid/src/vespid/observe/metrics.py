"""Metrics: each module declares its own at its top; here is what the routes answer."""

import time

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Latencies from a memory access to a long call, in seconds.
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_STARTED = Gauge("vespid_process_started_seconds", "When this process was started, by the epoch.")
_STARTED.set(time.time())


def metrics_text(registry: CollectorRegistry = REGISTRY) -> bytes:
    """The body of `GET /metrics`; its content type is `CONTENT_TYPE`."""
    return generate_latest(registry)
