"""What is seen of each request: a span in the caller's trace, a histogram, and the ids on every line of the log."""

import time
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Histogram

from vespid.control.request_id import request_id_of, trace_id_of, traceparent_of

REQUEST_SECONDS = Histogram(
    "vespid_http_request_seconds",
    "Time from a request's head to the end of its answer.",
    ("method", "route", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_tracer = trace.get_tracer("vespid.control")
_propagator = TraceContextTextMapPropagator()


class ObserveRequests(ASGIMiddleware):
    """Around every route; what no route answers to is not measured."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Any, receive: Any, send: Any, next_app: Any) -> None:
        """Run the rest of the application under observation."""
        route = str(scope["path_template"])
        status = 500
        began = time.perf_counter()

        async def send_and_note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        names = {"request_id": request_id_of(scope)}
        trace_id = trace_id_of(scope)
        if trace_id is not None:
            names["trace_id"] = trace_id
        traceparent = traceparent_of(scope)
        parent = _propagator.extract({"traceparent": traceparent} if traceparent else {})
        try:
            with (
                structlog.contextvars.bound_contextvars(**names),
                _tracer.start_as_current_span(f"{scope['method']} {route}", context=parent),
            ):
                await next_app(scope, receive, send_and_note)
        finally:
            REQUEST_SECONDS.labels(scope["method"], route, str(status)).observe(time.perf_counter() - began)
