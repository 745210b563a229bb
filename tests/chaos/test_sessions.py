"""Sessions while things die: each message is answered once, in order, by a turn that has seen what came before it."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from tests.support.chat import Chat, Event, answers
from tests.support.history import reserved
from tests.support.installed import QUICK
from tests.support.organization import ManagedAgent, Organization, until
from tests.support.processes import SCRIPTED_AGENT, Processes, RunningProcess
from tests.support.session_history import check_sessions, message
from tests.support.split import EDGES, Split

# A longer soak: VESPID_CHAOS_KILLS=100 make test ARGS="tests/chaos/test_sessions.py".
KILLS = int(os.environ.get("VESPID_CHAOS_KILLS", "9"))
SEED = int(os.environ.get("VESPID_CHAOS_SEED", "20261123"))
SESSIONS = 50
# Of each session: some over HTTP, one over its socket.
SENDERS = ("http-1", "http-2", "socket")
# Each says so many at least, and more until nothing is killed any more.
MESSAGES = 2
TURN_MS = 2_000
ANSWERED_WITHIN_S = 150.0
# What a caller waits for an answer of a server that may be stopped.
PATIENCE_S = 5.0
PAUSE_S = 0.1

Strike = Callable[[], Awaitable[None]]

_LIVING = "select count(*) from processes where kind = 'gateway' and lease_until > now()"
_HAS_TURNS = "select exists(select from session_turns where executor_id = $1::text::uuid and finished_at is null)"
_EVENT_SEQ = "select event_seq from sessions where id = $1::text::uuid"


@dataclass
class Host:
    """An agent that is killed and started again."""

    name: str
    id: str
    start: Callable[[], Awaitable[RunningProcess]]


class Town:
    """Two edges, two brains, and two hosts at each edge: one of the organization's own, one managed."""

    def __init__(self, split: Split, people: Organization) -> None:
        self.split = split
        self.people = people
        self.hosts: list[Host] = []

    async def settle_in(self) -> None:
        room = {"VESPID_AGENT_MAX_IN_FLIGHT": "16"}
        for edge in EDGES:
            at = self.split.host_url(edge)
            name = f"own-{edge}"
            _, agent_id = await self.people.pair(name, "--gateway-ws-url", at, program=SCRIPTED_AGENT, **room)

            async def again(name: str = name) -> RunningProcess:
                return await self.people.restart_agent(name, program=SCRIPTED_AGENT, **room)

            self.hosts.append(Host(name, agent_id, again))
            managed = await self.people.issue_managed(f"lent-{edge}")

            async def lent(managed: ManagedAgent = managed, at: str = at) -> RunningProcess:
                return await managed.start(program=SCRIPTED_AGENT, gateway_ws_url=at, **room)

            await lent()
            self.hosts.append(Host(managed.name, managed.id, lent))

    def process_of(self, host: Host) -> RunningProcess:
        (process,) = self.people.processes.running(host.name)
        return process


class Room:
    """One session, somebody who stays joined through every loss of a socket, and those who talk."""

    def __init__(self, chat: Chat, town: Town, marks: Path, chance: random.Random) -> None:
        self.chat = chat
        # As the one who has joined was told.
        self.events: list[Event] = []
        # By key: where the message stands, as its sender was told.
        self.accepted: dict[str, int] = {}
        self._town = town
        self._marks = str(marks)
        self._chance = chance
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """Until cancelled: joined, at one edge or the other."""
        people = self._town.people
        while True:
            url = f"{self._town.split.url(self._chance.choice(EDGES))}/ws/client"
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    socket = await people.http.ws_connect(url, headers=people.headers)
                async with socket:
                    await self._heed(socket)
            self._socket = None
            await asyncio.sleep(PAUSE_S)

    async def _heed(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await socket.send_json({"type": "session_join", "sessionId": self.chat.id, "afterSeq": len(self.events)})
        self._socket = socket
        async for said in socket:
            frame: dict[str, Any] = msgspec.json.decode(said.data)
            if frame["type"] == "session_event_v2":
                assert frame["seq"] == len(self.events) + 1, f"{self.chat.id}: a gap or a repeat on the socket"
                self.events.append(frame)
                self._news.set()

    async def talk(self, sender: str, over: asyncio.Event) -> None:
        """Message after message, each when the one before it is answered."""
        number = 0
        while number < MESSAGES or not over.is_set():
            number += 1
            key = f"{sender}.{number}"
            tool = {"tool": "look", "input": key, "result": "seen", "afterMs": self._chance.randrange(TURN_MS // 2)}
            text = message(key, self._marks, {"pauseMs": self._chance.randrange(TURN_MS // 2)}, tool)
            send = self._send_over_socket if sender == "socket" else self._send_over_http
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                self.accepted[key] = seq = await send(text, key)
                while seq not in answers(self.events):
                    await self._more()

    async def _send_over_http(self, text: str, key: str) -> int:
        """Repeated until it is accepted; sometimes once more."""
        seqs: list[int] = []
        while len(seqs) < (2 if self._chance.random() < 0.2 else 1):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await self.chat.post(text, idempotencyKey=key)
            except (aiohttp.ClientError, OSError, TimeoutError):
                await asyncio.sleep(PAUSE_S)
                continue
            if answer.status == 202:
                seqs.append(int(answer.body["event"]["seq"]))
            else:
                assert answer.status >= 500, answer
                await asyncio.sleep(PAUSE_S)
        assert len(set(seqs)) == 1, f"{key} was accepted as {seqs}"
        return seqs[0]

    async def _send_over_socket(self, text: str, key: str) -> int:
        """Repeated until it is heard of."""
        frame = {"type": "session_send", "sessionId": self.chat.id, "message": text, "idempotencyKey": key}
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    if self._socket is not None:
                        await self._socket.send_json(frame)
                    while True:
                        for event in self.events:
                            if event["eventType"] == "user_message" and event["payload"]["message"] == text:
                                return int(event["seq"])
                        await self._more()
            await asyncio.sleep(PAUSE_S)

    async def _more(self) -> None:
        self._news.clear()
        await self._news.wait()


class Strikes:
    """What happens to the town."""

    def __init__(self, town: Town, sql: "asyncpg.Connection[Any]", redis_url: str, chance: random.Random) -> None:
        self._town = town
        self._sql = sql
        self._redis_url = redis_url
        self._chance = chance
        self.all: tuple[Strike, ...] = (
            self.kill_host,
            self.stop_host,
            self.empty_redis,
            self.kill_edge,
            self.kill_brain,
            self.stop_edge,
            self.kill_host,
            self.stop_brain,
            self.kill_api,
        )

    async def kill_host(self) -> None:
        host = await self._busy_host()
        await self._town.process_of(host).kill()
        await host.start()

    async def stop_host(self) -> None:
        """Until it is given up; then it wakes and says what it has to say."""
        host = await self._busy_host()
        process = self._town.process_of(host)
        with stopped(process):

            async def idle() -> bool:
                return not await self._sql.fetchval(_HAS_TURNS, host.id)

            await until(idle, f"{host.name} is given up")

    async def kill_edge(self) -> None:
        edge = self._chance.choice(EDGES)
        await self._town.split.edge(edge).kill()
        await self._town.split.start_edge(edge)

    async def kill_brain(self) -> None:
        await self._chance.choice(self._town.split.brains).kill()
        await self._town.split.start_brain()

    async def stop_edge(self) -> None:
        await self._stop_gateway(self._town.split.edge(self._chance.choice(EDGES)))

    async def stop_brain(self) -> None:
        await self._stop_gateway(self._chance.choice(self._town.split.brains))

    async def kill_api(self) -> None:
        (process,) = self._town.people.processes.running("api")
        await process.kill()
        await self._town.people.processes.start("api")

    async def empty_redis(self) -> None:
        async with Redis.from_url(self._redis_url) as client:
            await client.flushdb()

    async def _busy_host(self) -> Host:
        """One that has turns at the moment."""

        async def busy() -> list[Host]:
            return [each for each in self._town.hosts if await self._sql.fetchval(_HAS_TURNS, each.id)]

        return self._chance.choice(list(await until(busy, "a host has a turn")))

    async def _stop_gateway(self, process: RunningProcess) -> None:
        """Until the others take it for dead."""
        running = len(self._town.people.processes.running("gateway"))
        with stopped(process):

            async def taken_for_dead() -> bool:
                return int(await self._sql.fetchval(_LIVING)) < running

            await until(taken_for_dead, "it is taken for dead")


@contextlib.contextmanager
def stopped(process: RunningProcess) -> Any:
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@pytest_asyncio.fixture
async def town(processes: Processes) -> AsyncIterator[Town]:
    processes.env |= QUICK
    split = Split(processes)
    await split.start(brains=2)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        town = Town(split, await Organization.sign_up(processes, http))
        await town.settle_in()
        # A login's token would not last through a long soak.
        made = await town.people.call("POST", "/v1/orgs/{org}/api-keys", {"name": "soak", "role": "admin"}, status=201)
        town.people.headers["Authorization"] = f"Bearer {made.body['value']}"
        yield town


async def nothing_in_flight(town: Town, redis_url: str) -> None:
    """Wait until the capacity book is empty, for the organization and for each host."""

    async def none() -> bool:
        managed = (await town.people.service("GET", "/internal/v1/managed-executors", status=200)).body["executors"]
        hosts = [*await town.people.agents(), *managed]
        taken = sum(host["inFlight"] for host in hosts)
        return taken == 0 and await reserved(redis_url, town.people.id) == 0

    await until(none, "what was reserved is given back")


@pytest.mark.promise("P8")
@pytest.mark.promise("P9")
async def test_random_kills_leave_every_message_answered_once_in_order_with_everything_before_it(
    town: Town, tmp_path: Path, superuser: asyncpg.Connection, redis_url: str
) -> None:
    chance = random.Random(SEED)
    marks = tmp_path / "marks"
    marks.touch()
    rooms = [Room(await Chat.begin(town.people, f"peer-{n}"), town, marks, chance) for n in range(SESSIONS)]
    strikes = Strikes(town, superuser, redis_url, chance)
    over = asyncio.Event()

    def tries() -> list[str]:
        return marks.read_text().splitlines()

    async def strike() -> None:
        for number in range(KILLS):
            # In the middle of something: when a few more turns have begun.
            begun = len(tries())
            await until(lambda begun=begun: len(tries()) >= begun + SESSIONS // 2, "turns go on")
            await (strikes.all[number] if number < len(strikes.all) else chance.choice(strikes.all))()
        over.set()

    async with asyncio.TaskGroup() as listeners:
        listening = [listeners.create_task(room.listen()) for room in rooms]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(strike())
            for room in rooms:
                for sender in SENDERS:
                    tasks.create_task(room.talk(sender, over))
        await nothing_in_flight(town, redis_url)
        accepted = {room.chat.id: room.accepted for room in rooms}
        answered = await check_sessions(superuser, accepted, tries())
        for room in rooms:
            count = await superuser.fetchval(_EVENT_SEQ, room.chat.id)
            await until(lambda room=room, count=count: len(room.events) == count, "the socket was told everything")
        for task in listening:
            task.cancel()
    said = sum(len(keys) for keys in accepted.values())
    print(f"{said} messages, {answered} answered by their turn, {len(tries())} tries")
    # Most by far; an answer that is an error is one too, where a turn lost three hosts or found none.
    assert answered > said * 0.8
