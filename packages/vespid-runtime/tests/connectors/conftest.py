"""What connector tests share: a context under the cloud guard that is opened for loopback only."""

from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from vespid_runtime.connectors import ActionContext, ActionLimits
from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp

MakeContext = Callable[..., ActionContext]


async def _to_loopback(host: str, port: int) -> Sequence[str]:
    """`*.local.example` lives here; every other name is somewhere inside."""
    return ["127.0.0.1"] if host.endswith(".local.example") else ["10.255.255.1"]


@pytest.fixture
async def make_context() -> AsyncIterator[MakeContext]:
    opened: list[GuardedHttp] = []

    async def ready(policy: EgressPolicy) -> GuardedHttp:
        http = GuardedHttp(EgressGuard(policy, _to_loopback))
        await http.start()
        opened.append(http)
        return http

    open_http = await ready(EgressPolicy.cloud("*.local.example"))
    closed_http = await ready(EgressPolicy.cloud())

    def make(*, guarded: bool = False, **more: object) -> ActionContext:
        settings: dict[str, object] = {
            "http": closed_http if guarded else open_http,
            "idempotency_key": "run-1:n1",
            "request_id": "run-1:n1:1",
            "limits": ActionLimits(timeout_ms=10_000, response_max_bytes=20_000, max_rows=100),
        }
        return ActionContext(**(settings | more))  # type: ignore[arg-type]

    yield make
    for http in opened:
        await http.stop()
