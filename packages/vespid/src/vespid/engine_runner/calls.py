"""One call of a model for whoever holds the token: its turn, its time, its metrics, its line in the log.

Neither key nor conversation is in any of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from time import monotonic

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from vespid.engine_runner.asked import InferRequest
from vespid.engine_runner.turnstile import Turnstile
from vespid.observe.log import get_logger
from vespid.observe.metrics import LATENCY_BUCKETS_S
from vespid_protocol.codes import Code, base_code
from vespid_runtime.models.registry import PROVIDERS
from vespid_runtime.models.types import Done, Model, ModelError, ModelReply, Piece, Usage

log = get_logger("vespid.engine_runner")

_CALLS = Counter("vespid_model_calls_total", "Calls of models, by how they ended.", ["provider", "outcome"])
_SECONDS = Histogram(
    "vespid_model_call_seconds",
    "From its turn to the end of its answer.",
    ["provider"],
    buckets=(*LATENCY_BUCKETS_S, 60, 120, 300, 600),
)
_RUNNING = Gauge("vespid_model_calls_running", "Calls of models going on now.", ["provider"])
_TOKENS = Counter("vespid_model_tokens_total", "Tokens as providers count them.", ["provider", "direction"])


class Calls:
    """Of one engine-runner. `max_timeout_ms`: no call takes longer, whatever is asked."""

    def __init__(self, models: Model, turnstile: Turnstile, max_timeout_ms: int) -> None:
        self._models = models
        self._turnstile = turnstile
        self._max_timeout_ms = max_timeout_ms

    async def infer(self, asked: InferRequest) -> ModelReply:
        """Raises ModelError. Cancelling it ends the provider's call."""
        async with self._accounted(asked) as (granted, account):
            reply = await self._models.infer(granted)
            account.usage = reply.usage
            return reply

    async def stream(self, asked: InferRequest) -> AsyncGenerator[Piece, None]:
        """Raises ModelError. Closing it ends the provider's call."""
        async with self._accounted(asked) as (granted, account), aclosing(self._models.stream(granted)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Done):
                    account.usage = piece.reply.usage
                    account.outcome = "ok"
                yield piece

    @asynccontextmanager
    async def _accounted(self, asked: InferRequest) -> AsyncIterator[tuple[InferRequest, _Account]]:
        timeout_ms = min(asked.timeout_ms, self._max_timeout_ms)
        account = _Account(asked)
        try:
            began = monotonic()
            async with self._turnstile.passed(asked.organization_id, asked.provider, timeout_ms):
                left_ms = max(1, timeout_ms - int((monotonic() - began) * 1000))
                with _RUNNING.labels(account.provider).track_inprogress():
                    yield msgspec.structs.replace(asked, timeout_ms=left_ms), account
            account.outcome = "ok"
        except ModelError as failed:
            account.outcome = failed.code
            raise
        except Exception:
            account.outcome = Code.INTERNAL_ERROR
            raise
        finally:
            account.close()


class _Account:
    """What is told of one call afterwards."""

    def __init__(self, asked: InferRequest) -> None:
        self._asked = asked
        self._began = monotonic()
        # Labels are ours: what was asked for can be anything.
        self.provider = asked.provider if asked.provider in PROVIDERS else "unknown"
        # Neither answered nor failed: who asked has gone.
        self.outcome = "cancelled"
        self.usage: Usage | None = None

    def close(self) -> None:
        seconds = monotonic() - self._began
        _CALLS.labels(self.provider, _outcome(self.outcome)).inc()
        _SECONDS.labels(self.provider).observe(seconds)
        if self.usage is not None:
            _TOKENS.labels(self.provider, "input").inc(self.usage.input_tokens)
            _TOKENS.labels(self.provider, "output").inc(self.usage.output_tokens)
        log.info(
            "model_call",
            provider=self.provider,
            org_id=self._asked.organization_id,
            outcome=self.outcome,
            streamed=self._asked.stream,
            took_ms=int(seconds * 1000),
            input_tokens=self.usage.input_tokens if self.usage is not None else None,
            output_tokens=self.usage.output_tokens if self.usage is not None else None,
        )


def _outcome(code: str) -> str:
    """`OPENAI_REQUEST_FAILED:429` counts as `REQUEST_FAILED`: the provider is a label already."""
    name = base_code(code)
    return "REQUEST_FAILED" if name.endswith("_REQUEST_FAILED") else name
