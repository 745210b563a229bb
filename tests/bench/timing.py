"""Timing of many calls: one at a time, or so many at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Timing:
    """What many calls took."""

    p50_ms: float
    p99_ms: float
    per_s: float

    @classmethod
    def of(cls, took_ms: Sequence[float], seconds: float) -> "Timing":
        return cls(median(took_ms), quantiles(took_ms, n=100)[98], len(took_ms) / seconds)


async def timed(call: Call, *, at_once: int, count: int, warm_up: int = 50) -> Timing:
    """Make `count` calls, `at_once` in flight."""
    for _ in range(warm_up):
        await call()
    took: list[float] = []
    left = count

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            begun = time.perf_counter()
            await call()
            took.append((time.perf_counter() - begun) * 1000)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return Timing.of(took, time.perf_counter() - begun)
