"""The agent as a process: what is put together, in which order it starts, and how it ends.

lock the identity → open the journal → reap what a dead process left → connect … signal → drain → close
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
import msgspec

from vespid_agent import __version__
from vespid_agent.agent import Agent
from vespid_agent.backends import backends_of, require_walls
from vespid_agent.capabilities import describe
from vespid_agent.clock import MonotonicMs, epoch_ms, suspend_aware_ms
from vespid_agent.config import AgentConfig
from vespid_agent.drain import drain, stop_work
from vespid_agent.engines.installed import installed_engines
from vespid_agent.engines.programs import Programs, programs_of
from vespid_agent.journal import Entry as JournalEntry
from vespid_agent.journal import EntryState, Journal
from vespid_agent.link import Link
from vespid_agent.lock import IdentityLock
from vespid_agent.logs import Logger, get_logger
from vespid_agent.network import NetworkMisconfigured, http_session, tls_context
from vespid_agent.reaper import reap
from vespid_agent.runner import Kinds, Runner
from vespid_agent.sandbox.retention import Retention
from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.sessions.host import SessionHost
from vespid_agent.sessions.open_sessions import OpenSessions
from vespid_agent.sessions.serving import Serving
from vespid_agent.sessions.tools import ToolPolicy
from vespid_agent.sessions.turns import Turns
from vespid_agent.sessions.workspaces import Workspaces
from vespid_agent.settings import AgentSettings
from vespid_agent.status.teller import Duties, Teller
from vespid_agent.tools.connector import ConnectorSource
from vespid_agent.tools.kit import Kit
from vespid_agent.tools.memory import MemorySource
from vespid_agent.tools.own import OwnTools
from vespid_agent.tools.scope import ToolSource
from vespid_agent.work.action import ActionWork
from vespid_agent.work.agent_run import AgentWork
from vespid_agent.work.execute import ShellWork
from vespid_agent.work.host_tools import HostTools
from vespid_agent.work.passthrough import Passthrough, allowed, looks_secret
from vespid_agent.work.tool_call import ToolWork
from vespid_protocol import journal as states
from vespid_protocol.agent_peer import AgentPeer, Identity
from vespid_protocol.entries import Entry
from vespid_runtime.connectors import Registry, registry
from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp
from vespid_runtime.engines.engine import Engine
from vespid_runtime.engines.registry import Engines
from vespid_runtime.redaction import Redactor

_STATES = {EntryState.FINISHED: states.State.FINISHED, EntryState.ABANDONED: states.State.ABANDONED}


async def run_agent(
    config: AgentConfig,
    settings: AgentSettings,
    journal_path: Path,
    lock_path: Path,
    status_path: Path,
    environment: Mapping[str, str],
    *,
    monotonic_ms: MonotonicMs = suspend_aware_ms,
    jitter: Callable[[], float] = random.random,
    reread_token: Callable[[], str | None] = lambda: None,
    more_engines: Sequence[Engine] = (),
) -> None:
    """Until stopped by a signal. `more_engines`: beside those of every agent.

    Raises Refused, JournalError, IdentityTaken, NetworkMisconfigured, ManagedPoolUnsafe.
    """
    log = get_logger("agent")
    stop, hurry = asyncio.Event(), asyncio.Event()
    _listen_to_signals(stop, hurry)
    lock = IdentityLock(lock_path)
    lock.take()
    teller = Teller(status_path, config.executor_id, monotonic_ms, log)
    try:
        teller.begin()
        journal = Journal.open(journal_path, config.executor_id)
        await journal.start()
        try:
            async with contextlib.AsyncExitStack() as held:
                backends = backends_of(settings, config, environment, log)
                held.push_async_callback(backends.close)
                await backends.look()
                require_walls(backends, config)
                await reap(journal, backends.found, log)
                await backends.sweep()
                session = await held.enter_async_context(http_session(settings.tls_ca_file))
                connectors = registry()
                for broken in connectors.broken:
                    log.error("connector_broken", name=broken.name, package=broken.package, reason=broken.reason)
                http = GuardedHttp(EgressGuard(_egress(settings)), tls=tls_context(settings.tls_ca_file))
                await http.start()
                held.push_async_callback(http.stop)
                passthrough = Passthrough(allowed(settings.env_passthrough, config.pool), environment)
                workdirs = Workdirs(settings.workdir_root)
                retention = Retention(workdirs, settings.workdir_retention_hours, log)
                shell = ShellWork(settings, backends, passthrough, workdirs)
                base_urls = _base_urls(environment)
                policy = ToolPolicy(config.pool, settings.managed_tools)
                tls = tls_context(settings.tls_ca_file)
                own_tools = OwnTools(settings, shell.shells, passthrough, environment, tls, policy.narrow, log)
                held.push_async_callback(own_tools.stop)
                await own_tools.start()
                shared: tuple[ToolSource, ...] = (ConnectorSource(connectors, http, base_urls), MemorySource())
                kit = Kit(policy, (*shared, *own_tools.sources), own_tools.ready)
                programs = programs_of(settings, config.pool, _engines_folder(journal_path), environment, log)
                await asyncio.to_thread(programs.recall)
                installed = installed_engines(settings, config.pool, http)
                engines = Engines((*installed, *programs.engines, *more_engines))
                own = Redactor(_own_secrets(config, environment))
                workspaces = Workspaces(settings.memory_root or journal_path.parent / "memory")
                tools = HostTools(kit, workdirs, workspaces, own)
                kinds = Kinds(
                    shell, ActionWork(connectors, http, base_urls), AgentWork(engines, tools), ToolWork(tools)
                )
                serving = Serving(engines, kit, workdirs, workspaces, OpenSessions(own, policy))
                agent = assemble(
                    config,
                    settings,
                    journal,
                    kinds,
                    serving,
                    connectors,
                    session,
                    monotonic_ms,
                    jitter,
                    log,
                    reread_token,
                    programs=programs,
                )

                def offer_what_is_found() -> None:
                    can = describe(
                        settings,
                        config.tags,
                        connectors,
                        backends.found,
                        programs.offered(serving.engines.ids),
                        programs.states,
                        own_tools.offers,
                        own_tools.problems,
                    )
                    agent.carry(agent.peer.update(msgspec.structs.replace(agent.peer.identity, capabilities=can)))

                offer_what_is_found()
                told = Duties(
                    agent=agent,
                    url=config.gateway_ws_url,
                    journal=journal_path,
                    backends=backends,
                    tools=own_tools,
                    offered=lambda: programs.offered(serving.engines.ids),
                    programs=lambda: programs.states,
                )
                duties = [
                    asyncio.create_task(teller.run(told), name="status"),
                    asyncio.create_task(retention.run(), name="workdirs"),
                    asyncio.create_task(backends.watch(offer_what_is_found), name="backends"),
                    asyncio.create_task(programs.watch(offer_what_is_found), name="programs"),
                    asyncio.create_task(own_tools.watch(offer_what_is_found), name="tools"),
                ]
                await _live(agent, duties, settings.drain_ms, stop, hurry, log)
        finally:
            await journal.stop()
    finally:
        teller.end()
        lock.release()


def _own_secrets(config: AgentConfig, environment: Mapping[str, str]) -> list[str]:
    """What the agent itself knows: masked in all that its sessions and its engines say."""
    return [config.executor_token, *(value for name, value in environment.items() if looks_secret(name))]


def assemble(
    config: AgentConfig,
    settings: AgentSettings,
    journal: Journal,
    kinds: Kinds,
    serving: Serving,
    connectors: Registry,
    session: aiohttp.ClientSession,
    monotonic_ms: MonotonicMs,
    jitter: Callable[[], float],
    log: Logger,
    reread_token: Callable[[], str | None] = lambda: None,
    *,
    programs: Programs,
) -> Agent:
    """An agent, ready to connect."""
    identity = Identity(
        agent_version=__version__,
        name=config.name or socket.gethostname() or "vespid-agent",
        instance_id=str(uuid.uuid4()),
        journal_id=journal.journal_id,
        capabilities=describe(
            settings,
            config.tags,
            connectors,
            kinds.shell.backends.found,
            programs.offered(serving.engines.ids),
            programs.states,
        ),
    )
    now, wall = monotonic_ms(), epoch_ms()
    kept = [_remembered(entry, now, wall) for entry in (*journal.unacknowledged, *journal.abandoned)]
    peer = AgentPeer(identity, kept, random=jitter, open_sessions=serving.open.states)

    def host(agent: Agent) -> SessionHost:
        limit = peer.max_frame_bytes
        turns = Turns(serving, journal, agent, log, monotonic_ms, limit)
        return SessionHost(serving.open, turns, serving.workspaces, agent, log)

    return Agent(
        journal,
        lambda agent: Runner(kinds, journal, agent, log, monotonic_ms, peer.max_frame_bytes),
        host,
        peer,
        lambda agent: Link(
            session,
            config.gateway_ws_url,
            config.executor_token,
            peer,
            agent.carry,
            monotonic_ms,
            log,
            reread_token,
        ),
        log,
    )


async def _live(
    agent: Agent,
    more: Sequence[asyncio.Task[None]],
    drain_ms: int,
    stop: asyncio.Event,
    hurry: asyncio.Event,
    log: Logger,
) -> None:
    """`more`: further duties of the process, which end with it."""
    link = asyncio.create_task(agent.link.run(), name="link")
    duties: list[asyncio.Task[None]] = [
        link,
        asyncio.create_task(agent.link.tick(), name="clock"),
        asyncio.create_task(agent.answers.run(agent.link), name="answers"),
        asyncio.create_task(agent.keep_house(), name="housekeeping"),
        *more,
    ]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([*duties, stopped], return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            await drain(agent, drain_ms, hurry, log)
    finally:
        await stop_work(agent, log)
        await agent.close()
        for task in (*duties, stopped):
            task.cancel()
        ends = await asyncio.gather(*duties, stopped, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


def _remembered(entry: JournalEntry, now_ms: int, wall_ms: int) -> Entry:
    return Entry(
        request_id=entry.request_id,
        state=_STATES[entry.state],
        lease_epoch=entry.lease_epoch or None,
        on_lost="resend" if entry.moves else None,
        changed_at=now_ms - max(wall_ms - entry.changed_ms, 0),
    )


def _engines_folder(journal_path: Path) -> Path:
    """Beside the journal, and like it of one executor."""
    return journal_path.parent / journal_path.stem.replace("journal", "engines", 1)


def _egress(settings: AgentSettings) -> EgressPolicy:
    try:
        return EgressPolicy.agent(",".join(settings.egress_allow))
    except ValueError as error:
        raise NetworkMisconfigured(f"VESPID_AGENT_EGRESS_ALLOW: {error}") from error


def _base_urls(environment: Mapping[str, str]) -> dict[str, str]:
    """What the operator of this machine set, which the guard therefore lets through."""
    url = environment.get("GITHUB_API_BASE_URL", "")
    return {"githubApiBaseUrl": url} if url else {}


def _listen_to_signals(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT (Ctrl-C or Ctrl-Break on Windows) asks to stop, the second not to wait."""

    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGBREAK):
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(asked))
    else:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, asked)
