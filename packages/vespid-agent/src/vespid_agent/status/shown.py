"""The live lines: what an agent tells, in words for people. One line per duty."""

from __future__ import annotations

from collections.abc import Iterator

from vespid_agent.clock import epoch_ms
from vespid_agent.status.reading import Reading, Verdict
from vespid_agent.status.state import BackendState, EngineLine, Lease, LinkState, State

# So many leases are shown one by one.
LEASES_SHOWN = 20

Line = tuple[str, str]


def lines(reading: Reading, now_ms: int | None = None) -> list[Line]:
    """(duty, words). Only printable characters: what others named may not speak to the terminal."""
    now = epoch_ms() if now_ms is None else now_ms
    return [(duty, _printable(words)) for duty, words in _lines(reading, now)]


def _lines(reading: Reading, now: int) -> Iterator[Line]:
    state = reading.state
    yield "process", _process(reading, now)
    if reading.problem is not None and reading.verdict is not Verdict.UNLINKED:
        yield "problem", reading.problem
    if state is None or reading.verdict is Verdict.STOPPED:
        return
    if state.link is not None:
        yield "link", _link(state.link, now)
        yield "heartbeat", _heartbeat(state.link)
    yield from _leases(state, now)
    if state.journal is not None:
        health = "" if state.journal.healthy else " · THE DISK REFUSES WRITES: new work is declined"
        yield "journal", f"{_count(state.journal.unacknowledged, 'result')} not yet acknowledged{health}"
    if state.outbox is not None:
        kept = f" · {state.outbox.events_bytes} bytes of events kept" if state.outbox.events_bytes else ""
        yield "outbox", f"{_count(state.outbox.frames, 'frame')} waiting, {state.outbox.bytes} bytes{kept}"
    for backend in state.backends:
        yield "sandbox", _backend(backend)
    for engine in state.engines:
        yield "engine", _engine(engine)
    yield "tools", f"{_count(state.tools.skills, 'skill')}, {_count(state.tools.mcp, 'tool')} of MCP servers"
    for problem in state.tools.problems:
        yield "problem", f"{problem.id}: {problem.problem}"
    if state.drain is not None:
        limit = state.drain.deadline_ms
        left = "" if limit is None else f", at most {max(state.drain.since + limit - now, 0) // 1000} s more"
        yield "drain", f"taking nothing new since {ago(now - state.drain.since)}{left}"


def _process(reading: Reading, now: int) -> str:
    pid = "" if reading.pid is None else f" (pid {'unknown' if reading.pid < 0 else reading.pid})"
    state = reading.state
    match reading.verdict:
        case Verdict.STOPPED if state is not None:
            return f"not running; pid {state.pid} ended without a word, last seen {ago(now - state.at)} ago"
        case Verdict.STOPPED:
            return "not running"
        case Verdict.HANGS:
            return f"HANGS{pid}"
        case Verdict.STARTING:
            return f"starting{pid}"
        case _:
            assert state is not None
            return f"running{pid} for {ago(now - state.started)}, version {state.version}"


def _link(link: LinkState, now: int) -> str:
    since = ago(now - link.since)
    if link.up:
        return f"up for {since} to {link.url}{'' if link.welcomed else ' · not welcomed yet'}"
    return f"DOWN for {since}: {link.trouble or 'connecting'} · {link.url}"


def _heartbeat(link: LinkState) -> str:
    told = []
    if link.heartbeat_ms is not None:
        told.append(f"every {link.heartbeat_ms / 1000:g} s")
    if link.up:
        told.append("no answer yet" if link.round_trip_ms is None else f"round trip {link.round_trip_ms} ms")
    if link.heard_ms_ago is not None:
        told.append(f"heard {link.heard_ms_ago / 1000:.1f} s ago")
    if link.lease_left_ms is not None:
        told.append(f"leases good for {link.lease_left_ms / 1000:.0f} s")
    return ", ".join(told)


def _leases(state: State, now: int) -> Iterator[Line]:
    room = "" if state.max_in_flight is None else f" of {state.max_in_flight}"
    yield "leases", f"{len(state.leases)}{room} in flight"
    for lease in state.leases[:LEASES_SHOWN]:
        yield "", f"{_lease(lease)} for {ago(now - lease.since)}"
    if len(state.leases) > LEASES_SHOWN:
        yield "", f"and {len(state.leases) - LEASES_SHOWN} more"


def _lease(lease: Lease) -> str:
    if lease.session_id is not None:
        return f"session {lease.session_id} · {lease.kind}"
    if lease.node_id is not None:
        return f"node {lease.node_id} of run {lease.run_id} · {lease.kind}"
    return f"request {lease.request_id} · {lease.kind}"


def _backend(backend: BackendState) -> str:
    default = " (default)" if backend.is_default else ""
    if not backend.usable:
        return f"{backend.name}{default}: not usable: {backend.reason or 'it does not say why'}"
    notes = f" · {'; '.join(backend.notes)}" if backend.notes else ""
    return f"{backend.name}{default}: usable{notes}"


def _engine(engine: EngineLine) -> str:
    version = "" if engine.version is None else f" {engine.version}"
    login = {None: "", True: ", logged in", False: ", NOT LOGGED IN"}[engine.logged_in]
    problem = "" if engine.problem is None else f": {engine.problem}"
    return f"{engine.id}{version}: {'offered' if engine.available else 'not offered'}{login}{problem}"


def ago(ms: int) -> str:
    """`4 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    seconds = max(ms, 0) // 1000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
