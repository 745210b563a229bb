"""What the gateway adds to a turn: from a message to its host, from a host's delta to the client; alone, and beside
500 sessions whose turns stream, with and without a reader among them that has stopped reading.

One of ours and one echo take turns, so that a neighbour on the machine disturbs both alike. The hosts and clients of
the 500 are in the bench's own process: what they cost is in the floor as it is in the figure.
"""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from tests.bench.executor import Heard
from tests.bench.floors import Floors
from tests.bench.installation import Installation
from tests.bench.report import Figure, figure
from tests.bench.stopped_reader import StoppedReader
from tests.bench.talks import Client, Host, Talk
from tests.bench.timing import Call, Timing

ROUNDS = 3
HOSTS = 5
HOST_ROOM = 200
LIVE = 500
TALKS_PER_CLIENT = 100
AT_ONCE = 32
# Of all 500 together.
DELTAS_PER_S = 1_000
TICK_S = 0.005
PIECE = "and on it goes, "
TURNS = 60
DELTAS = 300
# What a reader that has stopped is given, so that nothing more fits between it and the gateway.
FLOOD_PIECE = "x" * 32_768
FLOOD_PIECES = 24
WITHIN_S = 20.0


@dataclass
class Sample:
    """What one round gave, beside its commits and the echoes between."""

    to_host: Timing
    ack: Timing
    whole: Timing
    first: Timing
    delta: Timing
    turn_echo: Timing
    delta_echo: Timing
    commit: Timing


async def sessions(at: Installation, floors: Floors) -> dict[str, Figure]:
    """The figures of turns."""
    async with _Stage(at) as stage, floors.echoing() as echo:
        alone, many, stopped, per_s, commits_per_s = [], [], [], [], []
        probe, streaming = await stage.talks(2)
        crowd_of_32 = await stage.talks(AT_ONCE)
        for talk in (probe, *crowd_of_32):
            await _whole_turn(talk)
        await streaming.begin()
        for _ in range(ROUNDS):
            alone.append(await _sample(probe, streaming, echo, floors))
            commits_per_s.append((await floors.commits(connections=AT_ONCE, count=3_000)).per_s)
            per_s.append(await _turns_per_s(crowd_of_32, count=600))
        before_kb = _resident_kb(at.server_pid)
        crowd = await stage.live(LIVE)
        live_kb = (_resident_kb(at.server_pid) - before_kb) / LIVE
        quiet = await _cpu_s_per_s(at.server_pid)
        cpu = []
        for _ in range(ROUNDS):
            async with crowd.streaming():
                many.append(await _sample(probe, streaming, echo, floors))
                cpu.append((await _cpu_s_per_s(at.server_pid) - quiet) / DELTAS_PER_S)
                async with stage.stopped_reader(crowd, streaming):
                    stopped.append(await _sample(probe, streaming, echo, floors))
    return (
        _figures("", alone)
        | {"turns_per_s": figure(_middle(per_s), f"1/s at {AT_ONCE}", _middle(commits_per_s) / 3)}
        | _figures(f"_{LIVE}", many)
        | _figures(f"_{LIVE}_stopped", stopped)
        | {
            "delta_cpu_us": figure(_middle(cpu) * 1_000_000, "µs of the server's CPU"),
            "live_session_kb": figure(live_kb, f"KB of {LIVE} sessions with a turn"),
        }
    )


async def _sample(probe: Talk, streaming: Talk, echo: Call, floors: Floors) -> Sample:
    to_host: list[float] = []
    ack: list[float] = []

    async def whole() -> float:
        begun, turn, acked, final = await _whole_turn(probe)
        to_host.append((turn - begun) * 1000)
        ack.append((acked - begun) * 1000)
        return final - begun

    async def delta() -> float:
        came = streaming.awaited("agent_delta")
        begun = time.perf_counter()
        await streaming.delta(PIECE)
        return await came - begun

    commit = await floors.commits(connections=1, count=100)
    turns, turn_echo, took_s = await _in_turns(whole, echo, TURNS)
    first, _, first_s = await _in_turns(lambda: _first_delta(probe), echo, TURNS)
    deltas, delta_echo, delta_s = await _in_turns(delta, echo, DELTAS)
    return Sample(
        to_host=Timing.of(to_host, took_s),
        ack=Timing.of(ack, took_s),
        whole=Timing.of(turns, took_s),
        first=Timing.of(first, first_s),
        delta=Timing.of(deltas, delta_s),
        turn_echo=Timing.of(turn_echo, took_s),
        delta_echo=Timing.of(delta_echo, delta_s),
        commit=commit,
    )


async def _whole_turn(talk: Talk) -> tuple[float, float, float, float]:
    """A message whose host answers at once: sent, with the host, acknowledged, answered."""
    turn, ack, final = talk.awaited("turn"), talk.awaited("session_ack"), talk.awaited("agent_final")
    begun = time.perf_counter()
    await talk.send()
    at_host = await turn
    await talk.final()
    return begun, at_host, await ack, await final


async def _first_delta(talk: Talk) -> float:
    """Seconds from the first piece of an answer to the client's seeing it."""
    turn, delta, final = talk.awaited("turn"), talk.awaited("agent_delta"), talk.awaited("agent_final")
    await talk.send()
    await turn
    begun = time.perf_counter()
    await talk.delta(PIECE)
    took = await delta - begun
    await talk.final()
    await final
    return took


async def _in_turns(
    ours: Callable[[], Awaitable[float]], echo: Call, count: int
) -> tuple[list[float], list[float], float]:
    """Milliseconds of ours, of the echoes in between, and how many seconds it all took."""
    took: list[float] = []
    echoes: list[float] = []
    started = time.perf_counter()
    for _ in range(count):
        begun = time.perf_counter()
        await echo()
        echoes.append((time.perf_counter() - begun) * 1000)
        async with asyncio.timeout(WITHIN_S):
            took.append(await ours() * 1000)
    return took, echoes, time.perf_counter() - started


async def _turns_per_s(talks: list[Talk], *, count: int) -> float:
    left = count

    async def go_on(talk: Talk) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await _whole_turn(talk)

    begun = time.perf_counter()
    await asyncio.gather(*map(go_on, talks))
    return count / (time.perf_counter() - begun)


class _Crowd:
    """Sessions that all have a turn, whose hosts tell their answers piece by piece."""

    def __init__(self, talks: list[Talk]) -> None:
        self.talks = talks

    @contextlib.asynccontextmanager
    async def streaming(self) -> AsyncIterator[None]:
        """While this lasts, DELTAS_PER_S are said by all together."""
        stream = asyncio.create_task(self._stream())
        try:
            yield
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)

    async def _stream(self) -> None:
        begun, said = time.perf_counter(), 0
        while True:
            due = int((time.perf_counter() - begun) * DELTAS_PER_S)
            while said < due:
                await self.talks[said % len(self.talks)].delta(PIECE)
                said += 1
            await asyncio.sleep(TICK_S)


class _Stage:
    """Hosts, clients and their sessions. An async context manager."""

    def __init__(self, at: Installation) -> None:
        self._at = at
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._hosts: list[Host] = []
        self._clients: list[Client] = []
        self._talks: dict[str, Talk] = {}
        self._floods = 0

    async def __aenter__(self) -> "_Stage":
        for _ in range(HOSTS):
            host = Host(self._at.executor_url, await self._at.pair(), self._turn_came)
            await host.connect(self._http, HOST_ROOM)
            self._hosts.append(host)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()
        for host in self._hosts:
            await host.close()
        await self._http.close()

    async def talks(self, count: int) -> list[Talk]:
        """New sessions, joined by clients that have at most TALKS_PER_CLIENT each."""
        made: list[Talk] = []
        while len(made) < count:
            client = await self._client(self._http)
            for _ in range(min(TALKS_PER_CLIENT, count - len(made))):
                talk = client.talk(await self._session())
                self._talks[talk.session_id] = talk
                await talk.join()
                made.append(talk)
        return made

    async def live(self, count: int) -> _Crowd:
        """New sessions that have a turn."""
        talks = await self.talks(count)
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(*(talk.begin() for talk in talks[start : start + AT_ONCE]))
        return _Crowd(talks)

    @contextlib.asynccontextmanager
    async def stopped_reader(self, crowd: _Crowd, streaming: Talk) -> AsyncIterator[None]:
        """A client that has joined many sessions, `streaming` among them, and reads no more while this lasts."""
        reader = StoppedReader(self._at.gateway_port)
        joined = [streaming, *crowd.talks[:TALKS_PER_CLIENT]]
        await reader.join(self._at.headers, [talk.session_id for talk in joined])
        # Another one each time: so much text and no more is relayed of one turn.
        self._floods += 1
        for _ in range(FLOOD_PIECES):
            seen = crowd.talks[self._floods].awaited("agent_delta")
            await crowd.talks[self._floods].delta(FLOOD_PIECE)
            await seen
        yield
        if (told := await reader.told_of(streaming.session_id)) >= DELTAS:
            raise RuntimeError(f"the reader that had stopped was given {told} deltas, piece by piece")
        reader.close()

    async def _client(self, http: aiohttp.ClientSession) -> Client:
        url = f"ws://127.0.0.1:{self._at.gateway_port}/ws/client"
        client = Client(await http.ws_connect(url, headers=self._at.headers, max_msg_size=0))
        self._clients.append(client)
        return client

    async def _session(self) -> str:
        path = f"/v1/orgs/{self._at.org_id}/sessions"
        body = {"scope": "per-peer", "peer": f"p{len(self._talks)}", "engine": {"id": "vespid.echo.v1"}}
        return str((await self._at.call("POST", path, body))["session"]["id"])

    def _turn_came(self, host: Host, turn: Heard) -> None:
        self._talks[turn.session_id].turn_came(host, turn)


def _figures(suffix: str, samples: list[Sample]) -> dict[str, Figure]:
    turn_echo = _middle([sample.turn_echo.p50_ms for sample in samples])
    delta_echo = _middle([sample.delta_echo.p50_ms for sample in samples])
    commit = _middle([sample.commit.p50_ms for sample in samples])
    floors = {
        "to_host": turn_echo + 2 * commit,
        "ack": turn_echo + commit,
        "whole": 2 * turn_echo + 3 * commit,
        "first": turn_echo,
        "delta": delta_echo,
    }
    names = {"to_host": "turn_to_host", "ack": "turn_ack", "whole": "turn", "first": "turn_first_delta"}
    return {
        f"{names.get(what, what)}{suffix}_{part}_ms": figure(
            _middle([getattr(getattr(sample, what), f"{part}_ms") for sample in samples]), "ms", floor
        )
        for what, floor in floors.items()
        for part in ("p50", "p99")
    } | {f"echo{suffix}_p99_ms": figure(_middle([sample.delta_echo.p99_ms for sample in samples]), "ms", delta_echo)}


async def _cpu_s_per_s(pid: int, seconds: float = 2.0) -> float:
    """Seconds of CPU that a process uses in a second."""
    before, begun = _cpu_s(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    return (_cpu_s(pid) - before) / (time.perf_counter() - begun)


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def _middle(values: list[float]) -> float:
    return statistics.median(values)
