"""The duty that tells: once a second it looks at the other duties, and writes down what has changed.

The one thing to know: nobody is listened to. The file is replaced as a whole, so a reader has all of one moment and can
neither stall nor ask anything of the agent; and a process whose loop stands still is known by a file that grows old.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vespid_agent import __version__
from vespid_agent.agent import Agent
from vespid_agent.backends import Backends
from vespid_agent.clock import MonotonicMs, epoch_ms
from vespid_agent.config import make_private_dir
from vespid_agent.logs import Logger
from vespid_agent.status.state import (
    BEAT_S,
    BackendState,
    DrainState,
    EngineLine,
    JournalState,
    Lease,
    LinkState,
    OutboxState,
    Problem,
    State,
    ToolsState,
)
from vespid_agent.tools.own import OwnTools
from vespid_protocol.frames import EngineState

LOOK_S = 1.0
# More are counted in the journal and the capacity, and told to nobody one by one.
LEASES_MAX = 1000


@dataclass(frozen=True)
class Duties:
    """Whom the teller asks."""

    agent: Agent
    url: str
    journal: Path
    backends: Backends
    tools: OwnTools
    # The engines on offer, and what is known of the programs behind some.
    offered: Callable[[], tuple[str, ...]]
    programs: Callable[[], tuple[EngineState, ...] | None]


class Teller:
    """Writes `path`, which is this process's alone while it holds the identity's lock."""

    def __init__(self, path: Path, executor_id: str, monotonic_ms: MonotonicMs, log: Logger) -> None:
        self._path = path
        self._monotonic_ms = monotonic_ms
        self._log = log
        self._first = State(
            executor_id=executor_id,
            pid=os.getpid(),
            version=__version__,
            started=epoch_ms(),
            at=epoch_ms(),
            phase="starting",
        )
        self._drain: DrainState | None = None
        self._is_told = True

    def begin(self) -> None:
        """Before there is anything to tell: that this process has begun."""
        self._write(self._first)

    def end(self) -> None:
        """Nobody is here any more."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    async def run(self, duties: Duties) -> None:
        """The task: until cancelled."""
        told, beat_at = self._first, 0.0
        loop = asyncio.get_running_loop()
        while True:
            now = self._look(duties)
            if loop.time() >= beat_at or _is_news(told, now):
                await asyncio.to_thread(self._write, now)
                told, beat_at = now, loop.time() + BEAT_S
            await asyncio.sleep(LOOK_S)

    def _look(self, duties: Duties) -> State:
        agent = duties.agent
        if agent.peer.draining is not None and self._drain is None:
            self._drain = DrainState(since=epoch_ms(), deadline_ms=agent.peer.draining.deadline_ms)
        return msgspec.structs.replace(
            self._first,
            at=epoch_ms(),
            phase="running" if self._drain is None else "draining",
            max_in_flight=agent.peer.max_in_flight,
            link=_link(duties, self._monotonic_ms()),
            leases=_leases(agent),
            journal=JournalState(
                path=str(duties.journal), healthy=agent.journal.healthy, unacknowledged=agent.unacknowledged
            ),
            outbox=_outbox(agent),
            backends=_backends(duties.backends),
            engines=_engines(duties),
            tools=_tools(duties.tools),
            drain=self._drain,
        )

    def _write(self, state: State) -> None:
        """Replace the file. Where that fails it grows old, which readers see; work goes on."""
        temporary: str | None = None
        try:
            make_private_dir(self._path.parent)
            handle, temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(state))
            os.replace(temporary, self._path)
            temporary, self._is_told = None, True
        except OSError as error:
            if self._is_told:
                self._log.warning("status_not_written", path=str(self._path), error=str(error))
            self._is_told = False
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)


def _is_news(told: State, now: State) -> bool:
    """Anything but the passing of time."""
    return _timeless(told) != _timeless(now)


def _timeless(state: State) -> State:
    link = state.link
    if link is not None:
        link = msgspec.structs.replace(link, round_trip_ms=None, heard_ms_ago=None, lease_left_ms=None)
    return msgspec.structs.replace(state, at=0, link=link)


def _link(duties: Duties, now: int) -> LinkState:
    peer, standing = duties.agent.peer, duties.agent.link.standing
    until = peer.trusted_until
    return LinkState(
        url=duties.url,
        up=standing.is_up,
        since=standing.since_ms,
        trouble=standing.trouble,
        welcomed=peer.welcome is not None,
        heartbeat_ms=peer.heartbeat_ms,
        round_trip_ms=peer.round_trip_ms,
        heard_ms_ago=max(now - peer.heard_at, 0) if standing.is_up else None,
        lease_left_ms=None if until is None else max(until - now, 0),
    )


def _leases(agent: Agent) -> tuple[Lease, ...]:
    found: list[Lease] = []
    for order, since in agent.runner.in_flight():
        run_id, _, rest = order.request_id.partition(":")
        node_id, _, _ = rest.rpartition(":")
        found.append(
            Lease(
                request_id=order.request_id,
                kind=order.kind[:64],
                since=since,
                run_id=run_id if node_id else None,
                node_id=node_id or None,
            )
        )
    for turn, since in agent.sessions.turns.in_flight():
        found.append(Lease(request_id=turn.request_id, kind="session.turn", since=since, session_id=turn.session_id))
    return tuple(sorted(found, key=lambda lease: (lease.since, lease.request_id))[:LEASES_MAX])


def _outbox(agent: Agent) -> OutboxState:
    outbox = agent.link.outbox
    frames, size = (0, 0) if outbox is None else (len(outbox), outbox.size)
    return OutboxState(frames=frames, bytes=size, events_bytes=agent.events_bytes)


def _backends(backends: Backends) -> tuple[BackendState, ...]:
    return tuple(
        BackendState(
            name=name,
            usable=state.ok,
            is_default=name == backends.default,
            reason=state.reason,
            notes=tuple(state.notes),
        )
        for name, state in backends.states.items()
    )


def _engines(duties: Duties) -> tuple[EngineLine, ...]:
    programs = {state.id: state for state in duties.programs() or ()}
    others = [EngineLine(id=name, available=True) for name in duties.offered() if name not in programs]
    return (
        *others,
        *(
            EngineLine(
                id=state.id,
                available=state.available,
                version=state.version,
                logged_in=state.logged_in,
                problem=state.problem,
            )
            for state in programs.values()
        ),
    )


def _tools(tools: OwnTools) -> ToolsState:
    return ToolsState(
        skills=sum(1 for _ in tools.skills.offered),
        mcp=sum(1 for _ in tools.mcp.offered),
        problems=tuple(Problem(id=found.id, problem=found.problem) for found in tools.problems),
    )
