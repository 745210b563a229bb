"""Ending tasks that may be slow to end, or never do.

The one thing to know: nobody waits for a task longer than the grace. One that takes no notice of being cancelled is
left to itself, is held until it is over, and is named in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

# Less than a turn has to end in (3 s on the agent).
STOP_GRACE_S = 2.0

_log = logging.getLogger("vespid.tasks")

# Those that are being ended: nobody else may hold them any more.
_ending: set[asyncio.Task[None]] = set()


async def stop(tasks: Iterable[asyncio.Task[None]], *, more_s: float = 0) -> None:
    """Cancels them, and returns when they are over or the grace, and `more_s`, is. What they raise is logged."""
    live = [task for task in tasks if not task.done()]
    if not live:
        return
    for task in live:
        _ending.add(task)
        task.add_done_callback(_over)
        task.cancel()
    _, left = await asyncio.wait(live, timeout=STOP_GRACE_S + more_s)
    for task in left:
        _log.error("task_does_not_stop", extra={"task": task.get_name()})


def _over(task: asyncio.Task[None]) -> None:
    _ending.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task_raised", extra={"task": task.get_name(), "error": type(error).__name__})
