"""Both peers against each other over a link that loses, delays, duplicates and outlives itself.

A small world: one gateway with the lease table as its database, two agents with a journal each, sockets whose two
directions are queues. Hypothesis delivers, drops, restarts, stalls and repeats in any order. At each start and each
applied result the promises are checked; at the end everything is brought home and nothing may be missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw

from vespid_protocol import effects as fx
from vespid_protocol import frames as f
from vespid_protocol import journal, lease
from vespid_protocol.agent_peer import AgentPeer, Identity
from vespid_protocol.codec import encode
from vespid_protocol.entries import Entry
from vespid_protocol.gateway_peer import GatewayPeer

T = TypeVar("T")
LEASE_MS = 45_000
AGENTS = ("x", "y")
LIVE = (lease.State.DISPATCHED, lease.State.RECEIVED)
MAX_REQUESTS = 12


def on_lost(request_id: str) -> str:
    """A request's name says what is to happen when its holder is lost: `resend-3`."""
    return request_id.partition("-")[0]


class Socket:
    """Two queues of encoded frames, and who still holds an end."""

    def __init__(self, agent: Agent, now: int) -> None:
        self.agent = agent
        self.peer = GatewayPeer(now)
        self.to_gateway: deque[bytes] = deque()
        self.to_agent: deque[bytes] = deque()
        # Everything ever sent to the agent on this socket, to be sent once more.
        self.sent: list[bytes] = []
        # The gateway has not been told of the end yet.
        self.gateway_end = True


class Agent:
    """An agent process on a disk. `journal` is the disk; everything else is gone after `restart`."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.journal: dict[str, Entry] = {}
        self.results: dict[str, f.ExecuteResult] = {}
        self.starts: dict[str, int] = {}
        self.instance = 0
        self.boot()

    def __repr__(self) -> str:
        return self.name

    def boot(self) -> None:
        self.instance += 1
        self.socket: Socket | None = None
        self.accepted: set[str] = set()
        self.running: set[str] = set()
        entries = list(self.journal.values())
        for entry in entries:
            if entry.state is journal.State.STARTED:
                self.results[entry.request_id] = failed(entry.request_id, "AGENT_DISCONNECTED")
        identity = Identity(
            agent_version="1", name=self.name, instance_id=f"{self.name}{self.instance}", journal_id=self.name
        )
        self.peer = AgentPeer(identity, entries, random=lambda: 0.5)
        self.save()

    def save(self) -> None:
        """What the disk holds: everything but `accepted`."""
        keep = {key: entry for key, entry in self.peer.entries.items() if entry.state is not journal.State.ACCEPTED}
        self.journal = {
            key: Entry(
                request_id=key,
                state=entry.state,
                lease_epoch=entry.lease_epoch,
                on_lost=entry.on_lost,
                last_word=entry.last_word,
                changed_at=entry.changed_at,
            )
            for key, entry in keep.items()
        }

    def carry(self, effects: tuple[fx.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case fx.Send(frame):
                    self.send(frame)
                case fx.Answer(request_id, epoch):
                    result = self.results[request_id]
                    self.send(
                        f.ExecuteResult(
                            request_id=request_id,
                            status=result.status,
                            output=result.output,
                            error=result.error,
                            lease_epoch=epoch,
                        )
                    )
                case fx.Start(frame):
                    self.accepted.add(frame.request_id)
                case fx.Stop(request_id, why):
                    self.accepted.discard(request_id)
                    self.running.discard(request_id)
                    code = "NODE_EXECUTION_CANCELLED" if why == "cancelled" else "AGENT_DISCONNECTED"
                    self.end(failed(request_id, code))
                case fx.Bury(request_id):
                    self.world.check_buried(self, request_id)
                case fx.Close():
                    self.drop(1006)
                case fx.Exit():
                    raise AssertionError("nothing here is final")
        self.save()

    def send(self, frame: f.Frame) -> None:
        if self.socket is not None:
            self.socket.to_gateway.append(encode(frame))

    def start(self, request_id: str) -> None:
        if request_id not in self.accepted:
            return
        self.accepted.discard(request_id)
        if self.peer.may_start(request_id, self.world.now):
            self.save()
            self.starts[request_id] = self.starts.get(request_id, 0) + 1
            self.world.check_started(self, request_id)
            self.running.add(request_id)
        self.save()

    def succeed(self, request_id: str) -> None:
        if request_id in self.running:
            self.running.discard(request_id)
            self.end(f.ExecuteResult(request_id=request_id, status="succeeded", output=Raw(b"1")))

    def end(self, result: f.ExecuteResult) -> None:
        entry = self.peer.entries.get(result.request_id)
        if entry is not None and entry.state in (journal.State.ACCEPTED, journal.State.STARTED):
            self.results[result.request_id] = result
        self.carry(self.peer.finish(result, self.world.now))

    def connect(self) -> None:
        self.socket = Socket(self, self.world.now)
        self.world.sockets.append(self.socket)
        self.carry(self.peer.opened(self.world.now, 1_700_000_000_000 + self.world.now))

    def drop(self, code: int) -> None:
        """Our end is gone. What we sent may still arrive there; what was sent to us does not."""
        if self.socket is not None:
            self.socket.to_agent.clear()
            self.socket = None
        self.carry(self.peer.closed(code, "", self.world.now))


class World:
    """The gateway, its database, and the checks."""

    def __init__(self) -> None:
        self.now = 0
        self.sockets: list[Socket] = []
        self.leases: dict[str, lease.Lease] = {}
        self.applied: dict[str, int] = {}
        self.acked: set[tuple[str, str]] = set()
        self.granted_to: dict[str, set[str]] = {}
        self.epochs = dict.fromkeys(AGENTS, 0)
        self.current: dict[str, Socket | None] = dict.fromkeys(AGENTS)
        self.heard = dict.fromkeys(AGENTS, 0)
        self.agents = {name: Agent(name, self) for name in AGENTS}

    def submit(self, on_lost: str) -> None:
        first = lease.Lease(on_lost=on_lost, max_wait_ms=10**9, timeout_ms=10**6)  # type: ignore[arg-type]
        pending = lease.step(first, lease.Happening(event=lease.Event.DISPATCH, now=self.now)).lease
        self.leases[f"{on_lost}-{len(self.leases)}"] = pending

    def in_state(self, *states: lease.State) -> list[str]:
        return [request_id for request_id, held in self.leases.items() if held.state in states]

    def routable(self) -> list[str]:
        return [name for name, socket in self.current.items() if socket is not None and socket.peer.routable]

    # --- checks ----------------------------------------------------------------------------------------------------

    def check_started(self, agent: Agent, request_id: str) -> None:
        assert agent.starts[request_id] == 1, f"{agent.name} started {request_id} twice"
        others = [other for other in self.agents.values() if other is not agent]
        assert not any(request_id in other.running for other in others), f"{request_id} runs in two places"
        if any(request_id in other.starts for other in others):
            assert on_lost(request_id) == "resend"

    def check_buried(self, agent: Agent, request_id: str) -> None:
        entry = agent.peer.entries[request_id]
        cancelled_before_it_came = request_id not in agent.results
        assert cancelled_before_it_came or (agent.name, request_id) in self.acked, f"{entry} forgotten before its ack"

    # --- the gateway -----------------------------------------------------------------------------------------------

    def step(self, request_id: str, event: lease.Event, **fields: object) -> None:
        before = self.leases[request_id]
        outcome = lease.step(before, lease.Happening(event=event, now=self.now, **fields))  # type: ignore[arg-type]
        self.leases[request_id] = outcome.lease
        if event is lease.Event.RESULT and outcome.lease != before:
            assert fields["executor_id"] == before.executor_id, "a result of somebody who does not hold the lease"
            assert fields["lease_epoch"] in (None, before.lease_epoch), "a result under an old lease"
            # Once somebody else was granted, a late result is discarded; else what was made is what is applied.
            made = self.agents[str(before.executor_id)].results.get(request_id)
            if made is not None and len(self.granted_to[request_id]) == 1:
                assert (made.status == "succeeded") == fields["succeeded"], "a result was made and lost"
        if lease.Effect.APPLY in outcome.effects:
            self.applied[request_id] = self.applied.get(request_id, 0) + 1
        holder = self.current.get(outcome.lease.executor_id or "")
        if lease.Effect.SEND_EXECUTE in outcome.effects and holder is not None:
            self.carry(holder, holder.peer.execute(self.execute_frame(request_id), self.now))
        if lease.Effect.SEND_CANCEL in outcome.effects:
            told = self.current.get(str(fields.get("executor_id"))) or holder
            if told is not None:
                self.carry(told, told.peer.cancel(request_id, "cancelled"))

    def execute_frame(self, request_id: str) -> f.Execute:
        return f.Execute(
            request_id=request_id,
            organization_id="o",
            user_id="u",
            kind="agent.execute",
            payload=Raw(b"{}"),
            lease_epoch=self.leases[request_id].lease_epoch,
            on_lost=on_lost(request_id),  # type: ignore[arg-type]
            timeout_ms=60_000,
        )

    def carry(self, socket: Socket, effects: tuple[fx.Effect, ...]) -> None:
        name = socket.agent.name
        for effect in effects:
            match effect:
                case fx.Send(frame):
                    if isinstance(frame, f.ExecuteAck):
                        self.acked.add((name, frame.request_id))
                    if socket.agent.socket is socket:
                        socket.to_agent.append(encode(frame))
                        socket.sent.append(socket.to_agent[-1])
                case fx.Register(hello):
                    self.register(socket, hello)
                case fx.Received(request_id, epoch):
                    self.step(request_id, lease.Event.RECEIVED, executor_id=name, lease_epoch=epoch)
                case fx.Declined(request_id, epoch):
                    self.step(request_id, lease.Event.DECLINE, executor_id=name, lease_epoch=epoch)
                case fx.Result(frame, epoch):
                    done = frame.status == "succeeded"
                    fields = {"lease_epoch": epoch, "succeeded": done, "error": frame.error}
                    self.step(frame.request_id, lease.Event.RESULT, executor_id=name, **fields)
                    self.carry(socket, socket.peer.ack(frame.request_id))
                case fx.Unregister(epoch):
                    # The late close of an old socket keeps the new registration.
                    if epoch is not None and epoch == self.epochs[name]:
                        self.current[name] = None
                case fx.Close(code):
                    socket.gateway_end = False
                    socket.to_gateway.clear()
                    if socket.agent.socket is socket:
                        socket.agent.drop(code)

    def register(self, socket: Socket, hello: f.Hello) -> None:
        name = socket.agent.name
        older, self.current[name] = self.current[name], socket
        self.heard[name] = self.now
        self.epochs[name] += 1
        if older is not None:
            self.carry(older, older.peer.supersede(hello))
        welcome = f.Welcome(
            protocol_version=2,
            connection_epoch=self.epochs[name],
            executor_id=name,
            organization_id="o",
            server_time="",
            heartbeat_ms=10_000,
            stale_ms=60_000,
            lease_ms=LEASE_MS,
            max_frame_bytes=1 << 22,
            max_in_flight=10,
            tags=(),
        )
        self.carry(socket, socket.peer.attach(welcome))
        listed = {part.request_id for part in hello.in_flight or ()} | set(hello.unacked or ())
        for request_id, held in list(self.leases.items()):
            who = {"executor_id": name, "lease_epoch": held.lease_epoch}
            if request_id in listed:
                # Someone else's lease: this agent is told to stop, and its end is discarded.
                epoch = next((p.lease_epoch for p in hello.in_flight or () if p.request_id == request_id), None)
                self.step(request_id, lease.Event.HELLO_LISTS, **{**who, "lease_epoch": epoch})
            elif held.executor_id == name and held.state in (
                lease.State.DISPATCHED,
                lease.State.RECEIVED,
                lease.State.CANCELLING,
            ):
                self.step(request_id, lease.Event.HELLO_OMITS, **who)

    def tick(self) -> None:
        """Agents first: they run on their own clocks and must be done before the gateway gives up on them."""
        for agent in self.agents.values():
            agent.carry(agent.peer.tick(self.now))
        for socket in self.sockets:
            if socket.gateway_end:
                self.carry(socket, socket.peer.tick(self.now))
        for request_id, held in list(self.leases.items()):
            live = held.state in (lease.State.DISPATCHED, lease.State.RECEIVED)
            if live and held.executor_id and self.now - self.heard[held.executor_id] >= LEASE_MS:
                who = {"executor_id": held.executor_id, "lease_epoch": held.lease_epoch}
                self.step(request_id, lease.Event.LOST, **who)

    def deliver(self, socket: Socket, *, twice: bool = False) -> None:
        """The next message to the gateway."""
        if not socket.to_gateway:
            return
        message = socket.to_gateway.popleft()
        if self.current[socket.agent.name] in (socket, None):
            self.heard[socket.agent.name] = self.now
        for _ in range(1 + twice):
            self.carry(socket, socket.peer.receive_data(message, self.now))


def failed(request_id: str, code: str) -> f.ExecuteResult:
    return f.ExecuteResult(request_id=request_id, status="failed", error=code)


# Which of what there is: rules take a number and find their subject by it, so that a seeded walk can call them too.
PICK = st.integers(0, 99)


def pick(choices: Sequence[T], n: int) -> T:
    return choices[n % len(choices)]


class TwoPeers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def agent(self, name: str) -> Agent:
        return self.world.agents[name]

    @initialize()
    def both_are_connected(self) -> None:
        for agent in self.world.agents.values():
            agent.connect()
        self.all_hear_all()

    @rule(name=st.sampled_from(AGENTS))
    def agent_connects(self, name: str) -> None:
        if self.agent(name).socket is None:
            self.agent(name).connect()

    @rule(name=st.sampled_from(AGENTS))
    def socket_breaks(self, name: str) -> None:
        if self.agent(name).socket is not None:
            self.agent(name).drop(1006)

    @rule(name=st.sampled_from(AGENTS))
    def agent_is_killed_and_starts_again(self, name: str) -> None:
        agent = self.agent(name)
        agent.socket = None
        agent.boot()

    @precondition(lambda self: self.world.sockets)
    @rule(n=PICK, twice=st.booleans())
    def gateway_hears_one(self, n: int, twice: bool) -> None:
        busy = [socket for socket in self.world.sockets if socket.to_gateway and socket.gateway_end]
        if busy:
            self.world.deliver(pick(busy, n), twice=twice)

    @rule(name=st.sampled_from(AGENTS), twice=st.booleans())
    def agent_hears_one(self, name: str, twice: bool) -> None:
        agent = self.agent(name)
        if agent.socket is not None and agent.socket.to_agent:
            message = agent.socket.to_agent.popleft()
            for _ in range(1 + twice):
                agent.carry(agent.peer.receive_data(message, self.world.now))

    @rule(name=st.sampled_from(AGENTS), n=PICK)
    def agent_hears_an_old_message_again(self, name: str, n: int) -> None:
        socket = self.agent(name).socket
        if socket is not None and socket.sent:
            socket.to_agent.append(pick(socket.sent, n))

    @rule()
    def all_hear_all(self) -> None:
        for _ in range(20):
            for socket in list(self.world.sockets):
                while socket.to_gateway and socket.gateway_end:
                    self.world.deliver(socket)
            for agent in self.world.agents.values():
                while agent.socket is not None and agent.socket.to_agent:
                    agent.carry(agent.peer.receive_data(agent.socket.to_agent.popleft(), self.world.now))

    @rule(n=PICK)
    def gateway_learns_of_an_end(self, n: int) -> None:
        over = [s for s in self.world.sockets if s.gateway_end and s.agent.socket is not s]
        if over:
            socket = pick(over, n)
            socket.gateway_end = False
            self.world.carry(socket, socket.peer.gone())

    @precondition(lambda self: len(self.world.leases) < MAX_REQUESTS)
    @rule(on_lost=st.sampled_from(["fail", "resend", "resend", "wait"]))
    def submitted(self, on_lost: str) -> None:
        self.world.submit(on_lost)

    @precondition(lambda self: self.world.in_state(lease.State.PENDING) and self.world.routable())
    @rule(n=PICK, hurried=st.booleans())
    def granted(self, n: int, hurried: bool) -> None:
        name = pick(self.world.routable(), n)
        request_id = pick(self.world.in_state(lease.State.PENDING), n)
        self.world.granted_to.setdefault(request_id, set()).add(name)
        self.world.step(request_id, lease.Event.GRANT, executor_id=name)
        if hurried:
            self.all_hear_all()
            self.agent(name).start(request_id)

    @precondition(lambda self: self.world.in_state(*LIVE))
    @rule(n=PICK)
    def execute_is_sent_again(self, n: int) -> None:
        request_id = pick(self.world.in_state(*LIVE), n)
        socket = self.world.current.get(self.world.leases[request_id].executor_id or "")
        if socket is not None:
            self.world.carry(socket, socket.peer.execute(self.world.execute_frame(request_id), self.world.now))

    @precondition(lambda self: self.world.in_state(*LIVE))
    @rule(n=PICK)
    def cancelled(self, n: int) -> None:
        self.world.step(pick(self.world.in_state(*LIVE), n), lease.Event.CANCEL)

    @precondition(lambda self: any(agent.accepted for agent in self.world.agents.values()))
    @rule(n=PICK)
    def agent_starts(self, n: int) -> None:
        agent = pick([agent for agent in self.world.agents.values() if agent.accepted], n)
        agent.start(pick(sorted(agent.accepted), n))

    @precondition(lambda self: any(agent.running for agent in self.world.agents.values()))
    @rule(n=PICK)
    def agent_succeeds(self, n: int) -> None:
        agent = pick([agent for agent in self.world.agents.values() if agent.running], n)
        agent.succeed(pick(sorted(agent.running), n))

    @rule(ms=st.sampled_from([1_000, 6_000, 12_000, 30_000, 46_000]))
    def time_passes(self, ms: int) -> None:
        self.world.now += ms
        self.world.tick()

    @invariant()
    def at_most_one_result_is_applied(self) -> None:
        assert all(count == 1 for count in self.world.applied.values())

    @invariant()
    def what_is_counted_active_is_active(self) -> None:
        active = (journal.State.ACCEPTED, journal.State.STARTED)
        for agent in self.world.agents.values():
            assert agent.peer.in_flight == sum(e.state in active for e in agent.peer.entries.values())

    def finish_all(self, agent: Agent) -> None:
        for request_id in sorted(agent.accepted | agent.running):
            agent.start(request_id)
            agent.succeed(request_id)

    def teardown(self) -> None:
        """Everybody comes home: then every finished result is acknowledged, and everything ends."""
        world = self.world
        for name in AGENTS:
            agent = self.agent(name)
            self.finish_all(agent)
            if agent.socket is not None:
                agent.drop(1006)
            agent.connect()
        self.all_hear_all()
        for agent in world.agents.values():
            self.finish_all(agent)
        self.all_hear_all()
        for agent in world.agents.values():
            assert agent.peer.welcome is not None
            left = [entry for entry in agent.peer.entries.values() if entry.state is journal.State.FINISHED]
            assert not left, f"{left} were never acknowledged"
        for request_id, held in world.leases.items():
            if held.state is lease.State.RECEIVED:
                holder = self.agent(held.executor_id or "")
                assert request_id not in holder.peer.entries, "a result got lost between agent and gateway"


TwoPeers.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestTwoPeers = pytest.mark.promise("P2")(pytest.mark.promise("P3")(pytest.mark.promise("P4")(TwoPeers.TestCase)))


def walk(seed: int, steps: int) -> World:
    """One long life in the same world; hypothesis' own are short, and find the small faults."""
    random = Random(seed)
    life = TwoPeers()
    world = life.world
    life.both_are_connected()
    for _ in range(steps):
        n, flag, name = random.randrange(100), random.random() < 0.3, random.choice(AGENTS)
        running = [agent for agent in world.agents.values() if agent.running]
        accepted = [agent for agent in world.agents.values() if agent.accepted]
        match random.randrange(26):
            case 0 | 1 if len(world.in_state(lease.State.PENDING)) < 3:
                world.submit(random.choice(["fail", "resend", "resend", "wait"]))
            case 2 | 3 | 4 if world.in_state(lease.State.PENDING) and world.routable():
                life.granted(n, flag)
            case 5 if world.in_state(*LIVE):
                life.execute_is_sent_again(n)
            case 6 if world.in_state(*LIVE) and flag:
                life.cancelled(n)
            case 7 | 8 | 9 if accepted:
                life.agent_starts(n)
            case 10 | 11 if running:
                life.agent_succeeds(n)
            case 12 | 13:
                life.agent_connects(name)
            case 14:
                life.socket_breaks(name)
            case 15 if flag:
                life.agent_is_killed_and_starts_again(name)
            case 16 | 17:
                life.gateway_hears_one(n, flag)
            case 18 | 19:
                life.agent_hears_one(name, flag)
            case 20:
                life.all_hear_all()
            case 24 | 25:
                life.agent_hears_an_old_message_again(name, n)
            case 21:
                life.gateway_learns_of_an_end(n)
            case 22 | 23:
                life.time_passes(random.choice([500, 1_000, 6_000, 12_000, 30_000, 46_000]))
        life.at_most_one_result_is_applied()
        life.what_is_counted_active_is_active()
    life.teardown()
    return world


@pytest.mark.promise("P2")
@pytest.mark.promise("P3")
@pytest.mark.promise("P4")
def test_long_lives_keep_the_promises() -> None:
    starts = moved = applied = 0
    for seed in range(150):
        world = walk(seed, 250)
        applied += sum(world.applied.values())
        starts += sum(len(agent.starts) for agent in world.agents.values())
        moved += len(set(world.agents["x"].starts) & set(world.agents["y"].starts))
    # The walks really went where the promises matter.
    assert starts > 500
    assert applied > 500
    assert moved > 5
