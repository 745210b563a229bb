"""Work that has to be done whoever cancels: what ends a task is not itself ended in the middle."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Outcome = TypeVar("Outcome")


async def to_the_end(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Cancellation does not cut it short; it is raised when the work is done, unless that raised something itself."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    outcome = task.result()
    if cancelled:
        raise asyncio.CancelledError
    return outcome
