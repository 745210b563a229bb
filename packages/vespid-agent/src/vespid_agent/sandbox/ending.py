"""When a task is to end, and work that has to be done whoever cancels: ending a task is not itself ended midway."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from vespid_agent.sandbox.task import ShellTask

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


async def runs_out_of_time(task: ShellTask, ended: "asyncio.Future[None]") -> bool:
    """Returns when the task has ended, is halted, or its time is over: whether it is that."""
    waiting = {ended} if task.halt is None else {ended, task.halt}
    done, _ = await asyncio.wait(waiting, timeout=task.timeout_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
    return not done
