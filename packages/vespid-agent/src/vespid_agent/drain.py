"""The end of the agent's process: nothing new is taken, what runs may finish, what was done is delivered or kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from vespid_agent.agent import Agent
from vespid_agent.logs import Logger

# How long the last results wait for their acknowledgement; in the journal they are safe without it.
ACK_WAIT_S = 5.0
# How long stopped work may take to clean up behind itself.
STOP_WAIT_S = 10.0


async def drain(agent: Agent, drain_ms: int, hurry: asyncio.Event, log: Logger) -> None:
    """Returns when the process may end. Heartbeats go on meanwhile. `hurry`: do not wait for what runs."""
    log.info("draining", in_flight=agent.at_work, deadline_ms=drain_ms)
    agent.carry(agent.peer.drain("the agent is shutting down", drain_ms))
    await _first(agent.idle(), hurry, drain_ms / 1000)
    await stop_work(agent, log)
    await _first(_acknowledged(agent), hurry, ACK_WAIT_S)
    log.info("drained", unacknowledged=agent.unacknowledged)


async def stop_work(agent: Agent, log: Logger) -> None:
    """Stop what still runs, and wait until it has cleaned up behind itself and is journaled."""
    if not agent.at_work:
        return
    log.warning("stopping_work", in_flight=agent.at_work)
    agent.stop_work()
    try:
        async with asyncio.timeout(STOP_WAIT_S):
            await agent.idle()
    except TimeoutError:
        log.error("work_did_not_stop", in_flight=agent.at_work)


async def _acknowledged(agent: Agent) -> None:
    while agent.unacknowledged and agent.link.up.is_set():
        agent.acknowledged.clear()
        await agent.acknowledged.wait()


async def _first(wanted: Awaitable[None], hurry: asyncio.Event, timeout_s: float) -> None:
    """Until it is so, or nobody wants to wait for it any more."""
    tasks = [asyncio.ensure_future(wanted), asyncio.ensure_future(hurry.wait())]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
