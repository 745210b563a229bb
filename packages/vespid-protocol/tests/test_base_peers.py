"""Base peers over the same bad links: an agent that speaks only the base layer at our gateway, and our agent at a
gateway that speaks only that. Hypothesis delivers, breaks, restarts and lets time pass in any order.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Sequence
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
ROOM = 3
MAX_REQUESTS = 12
# Which of what there is: rules take a number and find their subject by it, so that a seeded walk can call them too.
PICK = st.integers(0, 99)
# What a base agent may be shown of an `execute`.
BASE_EXECUTE = {"type", "requestId", "organizationId", "userId", "kind", "payload", "secret"}


def pick(choices: Sequence[T], n: int) -> T:
    return choices[n % len(choices)]


# --- a base agent at our gateway -------------------------------------------------------------------------------------


class Socket:
    """Two queues of encoded frames, and the gateway's end."""

    def __init__(self, agent: BaseAgent, now: int) -> None:
        self.agent = agent
        self.peer = GatewayPeer(now)
        self.to_gateway: deque[bytes] = deque()
        self.to_agent: deque[bytes] = deque()
        self.gateway_end = True


class BaseAgent:
    """Written from the base part of the contract alone. It has no journal: killed, it knows nothing any more."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        # Every result it ever made in its lives, for the checks.
        self.made: Counter[str] = Counter()
        self.boot()

    def boot(self) -> None:
        self.socket: Socket | None = None
        self.running: set[str] = set()
        self.unacked: dict[str, dict[str, object]] = {}
        self.ended: set[str] = set()

    def connect(self, *, results_first: bool) -> None:
        self.socket = Socket(self, self.world.now)
        self.world.sockets.append(self.socket)
        results = list(self.unacked.values())
        hello = {"type": "hello", "agentVersion": "1", "name": self.name, "capabilities": {"maxInFlight": ROOM}}
        for frame in (*results, hello) if results_first else (hello, *results):
            self.send(frame)

    def drop(self) -> None:
        if self.socket is not None:
            self.socket.to_agent.clear()
            self.socket = None

    def send(self, frame: dict[str, object]) -> None:
        if self.socket is not None:
            self.socket.to_gateway.append(json.dumps(frame).encode())

    def hear(self, message: bytes) -> None:
        frame = json.loads(message)
        match frame["type"]:
            case "execute":
                assert set(frame) <= BASE_EXECUTE, f"a base agent was shown {set(frame) - BASE_EXECUTE}"
                self.execute(frame["requestId"])
            case "execute_ack":
                if self.unacked.pop(frame["requestId"], None) is not None:
                    self.world.check_acked(self, frame["requestId"])
            case other:
                assert other == "pong", f"a base agent was sent {other}"

    def execute(self, request_id: str) -> None:
        if request_id in self.unacked:
            self.send(self.unacked[request_id])
        elif request_id in self.ended or request_id in self.running:
            pass  # once is enough
        elif len(self.running) >= ROOM:
            declined = {"requestId": request_id, "status": "failed", "error": "EXECUTOR_OVER_CAPACITY"}
            self.send({"type": "execute_result", **declined})
        else:
            self.running.add(request_id)
            self.send({"type": "execute_received", "requestId": request_id})

    def finish(self, request_id: str) -> None:
        self.running.discard(request_id)
        self.ended.add(request_id)
        self.made[request_id] += 1
        result = {"type": "execute_result", "requestId": request_id, "status": "succeeded", "output": 1}
        self.unacked[request_id] = result
        self.send(result)

    def say_event(self, request_id: str, seq: int) -> None:
        event = {"seq": seq, "ts": 1, "kind": "stdout", "level": "info"}
        self.send({"type": "execute_event", "requestId": request_id, "event": event})


class World:
    """Our gateway with the lease table as its database, and the checks."""

    def __init__(self) -> None:
        self.now = 0
        self.sockets: list[Socket] = []
        self.leases: dict[str, lease.Lease] = {}
        self.applied: Counter[str] = Counter()
        # `execute` frames by (agent, request, epoch).
        self.executes: Counter[tuple[str, str, int]] = Counter()
        self.settled: set[tuple[str, str]] = set()
        self.epochs = dict.fromkeys(AGENTS, 0)
        self.current: dict[str, Socket | None] = dict.fromkeys(AGENTS)
        self.heard = dict.fromkeys(AGENTS, 0)
        self.agents = {name: BaseAgent(name, self) for name in AGENTS}

    def in_state(self, *states: lease.State) -> list[str]:
        return [request_id for request_id, held in self.leases.items() if held.state in states]

    def routable(self) -> list[str]:
        return [name for name, socket in self.current.items() if socket is not None and socket.peer.routable]

    def check_acked(self, agent: BaseAgent, request_id: str) -> None:
        assert (agent.name, request_id) in self.settled, f"{agent.name} was told to forget a result nobody looked at"

    def step(self, request_id: str, event: lease.Event, **fields: object) -> None:
        before = self.leases[request_id]
        outcome = lease.step(before, lease.Happening(event=event, now=self.now, **fields))  # type: ignore[arg-type]
        self.leases[request_id] = outcome.lease
        holder = self.current.get(before.executor_id or "")
        if event is lease.Event.RESULT:
            self.settled.add((str(fields["executor_id"]), request_id))
            if outcome.lease != before:
                assert fields["executor_id"] == before.executor_id, "a result of somebody who does not hold the lease"
                assert self.agents[str(before.executor_id)].made[request_id], "a result that nobody made"
        if lease.Effect.APPLY in outcome.effects:
            self.applied[request_id] += 1
        if lease.Effect.RELEASE in outcome.effects and holder is not None and event is not lease.Event.RESULT:
            holder.peer.release(request_id)
        if lease.Effect.SEND_EXECUTE in outcome.effects:
            self.send_execute(request_id)
        if lease.Effect.SEND_CANCEL in outcome.effects and holder is not None:
            held = set(holder.peer.held)
            assert holder.peer.cancel(request_id, "cancelled") == (), "a base agent cannot be told"
            assert set(holder.peer.held) == held, "a cancelled request keeps its slot until its result or deadline"

    def send_execute(self, request_id: str) -> None:
        granted = self.leases[request_id]
        socket = self.current.get(granted.executor_id or "")
        if socket is None:
            return
        frame = f.Execute(
            request_id=request_id,
            organization_id="o",
            user_id="u",
            kind="agent.execute",
            payload=Raw(b"{}"),
            lease_epoch=granted.lease_epoch,
            on_lost="resend",
            timeout_ms=60_000,
            secrets={"s": "v"},
            traceparent="t",
        )
        self.carry(socket, socket.peer.execute(frame, self.now))

    def carry(self, socket: Socket, effects: tuple[fx.Effect, ...]) -> None:
        name = socket.agent.name
        for effect in effects:
            match effect:
                case fx.Send(frame):
                    if isinstance(frame, f.Execute):
                        key = (name, frame.request_id, self.leases[frame.request_id].lease_epoch)
                        self.executes[key] += 1
                        assert self.executes[key] == 1, f"{key} was sent twice under one lease"
                    if socket.agent.socket is socket:
                        socket.to_agent.append(encode(frame))
                case fx.Register(hello):
                    self.register(socket, hello)
                case fx.Received(request_id, epoch):
                    self.step(request_id, lease.Event.RECEIVED, executor_id=name, lease_epoch=epoch)
                case fx.Declined(request_id, epoch):
                    self.step(request_id, lease.Event.DECLINE, executor_id=name, lease_epoch=epoch)
                case fx.Progress(frame, epoch):
                    who = {"executor_id": name, "lease_epoch": epoch, "seq": frame.event.seq}
                    before = self.leases[frame.request_id]
                    self.step(frame.request_id, lease.Event.REMOTE_EVENT, **who)
                    if self.leases[frame.request_id] != before:
                        assert before.executor_id == name
                        assert frame.event.seq > before.last_event_seq
                case fx.Result(frame, epoch):
                    fields = {"lease_epoch": epoch, "succeeded": frame.status == "succeeded", "error": frame.error}
                    self.step(frame.request_id, lease.Event.RESULT, executor_id=name, **fields)
                    self.carry(socket, socket.peer.ack(frame.request_id))
                case fx.Unregister(epoch):
                    if epoch is not None and epoch == self.epochs[name]:
                        self.current[name] = None
                case fx.Close():
                    socket.gateway_end = False
                    socket.to_gateway.clear()
                    if socket.agent.socket is socket:
                        socket.agent.drop()
                case fx.NotTaken() | fx.Silent():
                    raise AssertionError(f"a base agent owes neither word nor heartbeat: {effect}")

    def register(self, socket: Socket, hello: f.Hello) -> None:
        """It lists nothing, so nothing is concluded: its result, its silence or the deadline decide."""
        name = socket.agent.name
        assert not socket.peer.speaks_v2
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
            max_in_flight=ROOM,
            tags=(),
        )
        assert socket.peer.attach(welcome) == (), "a base agent does not know `welcome`"

    def tick(self) -> None:
        for socket in self.sockets:
            if socket.gateway_end:
                self.carry(socket, socket.peer.tick(self.now))
        for request_id, held in list(self.leases.items()):
            who = {"executor_id": held.executor_id, "lease_epoch": held.lease_epoch}
            live = held.state in (lease.State.DISPATCHED, lease.State.RECEIVED, lease.State.CANCELLING)
            if live and held.executor_id and self.now - self.heard[held.executor_id] >= LEASE_MS:
                self.step(request_id, lease.Event.LOST, **who)
            act_by = self.leases[request_id].act_by
            if act_by is not None and self.now >= act_by:
                self.step(request_id, lease.Event.ACT_BY, **who)

    def deliver(self, socket: Socket, *, twice: bool = False) -> None:
        """The next message to the gateway."""
        message = socket.to_gateway.popleft()
        if self.current[socket.agent.name] in (socket, None):
            self.heard[socket.agent.name] = self.now
        for _ in range(1 + twice):
            self.carry(socket, socket.peer.receive_data(message, self.now))


class BaseAgents(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def agent(self, name: str) -> BaseAgent:
        return self.world.agents[name]

    def busy(self) -> list[BaseAgent]:
        return [agent for agent in self.world.agents.values() if agent.running]

    @initialize()
    def both_are_connected(self) -> None:
        for agent in self.world.agents.values():
            agent.connect(results_first=False)
        self.all_hear_all()

    @rule(name=st.sampled_from(AGENTS), results_first=st.booleans())
    def agent_connects(self, name: str, results_first: bool) -> None:
        if self.agent(name).socket is None:
            self.agent(name).connect(results_first=results_first)

    @rule(name=st.sampled_from(AGENTS))
    def socket_breaks(self, name: str) -> None:
        self.agent(name).drop()

    @rule(name=st.sampled_from(AGENTS))
    def agent_is_killed_and_knows_nothing_any_more(self, name: str) -> None:
        self.agent(name).boot()

    @rule(n=PICK, twice=st.booleans())
    def gateway_hears_one(self, n: int, twice: bool) -> None:
        waiting = [socket for socket in self.world.sockets if socket.to_gateway and socket.gateway_end]
        if waiting:
            self.world.deliver(pick(waiting, n), twice=twice)

    @rule(name=st.sampled_from(AGENTS), twice=st.booleans())
    def agent_hears_one(self, name: str, twice: bool) -> None:
        agent = self.agent(name)
        if agent.socket is not None and agent.socket.to_agent:
            message = agent.socket.to_agent.popleft()
            for _ in range(1 + twice):
                agent.hear(message)

    @rule()
    def all_hear_all(self) -> None:
        for _ in range(20):
            for socket in list(self.world.sockets):
                while socket.to_gateway and socket.gateway_end:
                    self.world.deliver(socket)
            for agent in self.world.agents.values():
                while agent.socket is not None and agent.socket.to_agent:
                    agent.hear(agent.socket.to_agent.popleft())

    @rule(n=PICK)
    def gateway_learns_of_an_end(self, n: int) -> None:
        over = [s for s in self.world.sockets if s.gateway_end and s.agent.socket is not s]
        if over:
            socket = pick(over, n)
            socket.gateway_end = False
            self.world.carry(socket, socket.peer.gone())

    @precondition(lambda self: len(self.world.leases) < MAX_REQUESTS)
    @rule(on_lost=st.sampled_from(["fail", "resend", "wait"]))
    def submitted(self, on_lost: str) -> None:
        first = lease.Lease(on_lost=on_lost, max_wait_ms=10**9, timeout_ms=100_000)  # type: ignore[arg-type]
        happening = lease.Happening(event=lease.Event.DISPATCH, now=self.world.now)
        self.world.leases[f"{on_lost}-{len(self.world.leases)}"] = lease.step(first, happening).lease

    @precondition(lambda self: self.world.in_state(lease.State.PENDING) and self.world.routable())
    @rule(n=PICK, m=PICK)
    def granted(self, n: int, m: int) -> None:
        request_id = pick(self.world.in_state(lease.State.PENDING), n)
        self.world.step(request_id, lease.Event.GRANT, executor_id=pick(self.world.routable(), m))

    @precondition(lambda self: self.world.in_state(lease.State.DISPATCHED, lease.State.RECEIVED))
    @rule(n=PICK)
    def gateway_would_send_it_again(self, n: int) -> None:
        request_id = pick(self.world.in_state(lease.State.DISPATCHED, lease.State.RECEIVED), n)
        socket = self.world.current.get(self.world.leases[request_id].executor_id or "")
        if socket is not None and request_id in socket.peer.held:
            self.world.send_execute(request_id)

    @precondition(lambda self: self.world.in_state(lease.State.DISPATCHED, lease.State.RECEIVED))
    @rule(n=PICK)
    def cancelled(self, n: int) -> None:
        request_id = pick(self.world.in_state(lease.State.DISPATCHED, lease.State.RECEIVED), n)
        self.world.step(request_id, lease.Event.CANCEL)

    @rule(n=PICK, m=PICK)
    def agent_finishes(self, n: int, m: int) -> None:
        if self.busy():
            agent = pick(self.busy(), n)
            agent.finish(pick(sorted(agent.running), m))

    @rule(n=PICK, m=PICK, seq=st.integers(1, 5))
    def agent_says_what_it_does(self, n: int, m: int, seq: int) -> None:
        if self.busy():
            agent = pick(self.busy(), n)
            agent.say_event(pick(sorted(agent.running), m), seq)

    @rule(ms=st.sampled_from([1_000, 12_000, 30_000, 46_000]), pings=st.booleans())
    def time_passes(self, ms: int, pings: bool) -> None:
        self.world.now += ms
        if pings:
            for agent in self.world.agents.values():
                agent.send({"type": "ping", "ts": self.world.now})
        self.world.tick()

    @invariant()
    def at_most_one_result_is_applied(self) -> None:
        assert all(count == 1 for count in self.world.applied.values())

    def teardown(self) -> None:
        """Everybody comes home: every result is acknowledged, every request ends, and every slot is free again."""
        world = self.world
        for agent in world.agents.values():
            agent.drop()
            agent.connect(results_first=False)
        self.all_hear_all()
        due = set(world.in_state(lease.State.DISPATCHED, lease.State.RECEIVED))
        expected = {r for agent in world.agents.values() for r in agent.running if self.is_held_by(agent, r)} & due
        for agent in world.agents.values():
            for request_id in sorted(agent.running):
                agent.finish(request_id)
        self.all_hear_all()
        for agent in world.agents.values():
            assert not agent.unacked, f"{agent.name} was never told that it may forget {set(agent.unacked)}"
        for request_id in expected:
            assert world.leases[request_id].state is lease.State.SUCCEEDED, "a result got lost"
        for _ in range(20):
            self.time_passes(10_000, pings=True)
            self.all_hear_all()
        assert not world.in_state(lease.State.DISPATCHED, lease.State.RECEIVED, lease.State.CANCELLING)
        for socket in world.current.values():
            assert socket is not None
            assert not socket.peer.held, "a slot was never given back"

    def is_held_by(self, agent: BaseAgent, request_id: str) -> bool:
        return self.world.leases[request_id].executor_id == agent.name


BaseAgents.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBaseAgents = pytest.mark.promise("P2")(pytest.mark.promise("P3")(BaseAgents.TestCase))


# --- our agent at a base gateway -------------------------------------------------------------------------------------


class BaseGateway:
    """Written from the base part of the contract alone: no welcome, no epochs, and pongs only if it likes."""

    def __init__(self) -> None:
        self.results: dict[str, list[dict[str, object]]] = {}
        self.declined: set[str] = set()
        self.offered: list[str] = []

    def hear(self, message: bytes, *, commits: bool, pongs: bool) -> list[dict[str, object]]:
        """Its answers."""
        frame = json.loads(message)
        match frame["type"]:
            case "hello" | "execute_received" | "execute_event":
                assert frame.get("leaseEpoch") is None
                return []
            case "ping":
                return [{"type": "pong", "ts": frame["ts"], "serverTime": ""}] if pongs else []
            case "execute_result":
                assert "leaseEpoch" not in frame, "a base gateway knows no epochs"
                if frame.get("error") == "EXECUTOR_OVER_CAPACITY":
                    self.declined.add(frame["requestId"])
                    return []
                if not commits:
                    return []
                self.results.setdefault(frame["requestId"], []).append(frame)
                return [{"type": "execute_ack", "requestId": frame["requestId"]}]
        raise AssertionError(f"a base gateway was sent {frame['type']}")


def over_capacity(frame: f.Frame) -> bool:
    return isinstance(frame, f.ExecuteResult) and frame.error == "EXECUTOR_OVER_CAPACITY"


class AtBaseGateway(RuleBasedStateMachine):
    """One agent, its disk, and the gateway that it is connected to now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.gateway = BaseGateway()
        self.disk: dict[str, Entry] = {}
        self.kept: dict[str, f.ExecuteResult] = {}
        self.starts: Counter[str] = Counter()
        self.buried: set[str] = set()
        self.acked: set[str] = set()
        self.to_gateway: deque[bytes] = deque()
        self.to_agent: deque[bytes] = deque()
        self.boot()

    def boot(self) -> None:
        self.accepted: set[str] = set()
        self.running: set[str] = set()
        self.disconnected()
        entries = list(self.disk.values())
        for entry in entries:
            if entry.state is journal.State.STARTED:
                lost = f.ExecuteResult(request_id=entry.request_id, status="failed", error="AGENT_DISCONNECTED")
                self.kept[entry.request_id] = lost
        capabilities = f.Capabilities(max_in_flight=ROOM)
        identity = Identity(agent_version="1", name="n", instance_id="i", journal_id="j", capabilities=capabilities)
        self.peer = AgentPeer(identity, entries, random=lambda: 0.5)
        self.save()

    def disconnected(self) -> None:
        self.is_up = False
        self.to_gateway.clear()
        self.to_agent.clear()

    def save(self) -> None:
        """What the disk holds: everything but `accepted`."""
        self.disk = {
            key: Entry(request_id=key, state=entry.state, on_lost=entry.on_lost, changed_at=entry.changed_at)
            for key, entry in self.peer.entries.items()
            if entry.state is not journal.State.ACCEPTED
        }

    def carry(self, effects: tuple[fx.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case fx.Send(frame):
                    self.to_gateway.append(encode(frame))
                case fx.Answer(request_id, epoch):
                    assert epoch is None
                    self.to_gateway.append(encode(self.kept[request_id]))
                case fx.Start(frame):
                    self.accepted.add(frame.request_id)
                case fx.Bury(request_id):
                    assert request_id in self.acked, "forgotten before its acknowledgement"
                    self.buried.add(request_id)
                case fx.Close():
                    self.carry(self.peer.closed(1006, "", self.now))
                    self.disconnected()
                case fx.Stop():
                    raise AssertionError("nobody asked for that: a base gateway gives no leases and cannot cancel")
                case fx.Exit() | fx.Welcomed():
                    raise AssertionError(f"not from a base gateway: {effect}")
        self.save()

    @initialize()
    def is_connected(self) -> None:
        self.connects()

    @rule()
    def connects(self) -> None:
        if not self.is_up:
            self.is_up = True
            self.carry(self.peer.opened(self.now, 1_700_000_000_000 + self.now))

    @rule()
    def socket_breaks(self) -> None:
        if self.is_up:
            self.disconnected()
            self.carry(self.peer.closed(1006, "", self.now))

    @rule()
    def agent_is_killed_and_starts_again(self) -> None:
        self.boot()

    @rule(again=st.booleans(), n=PICK)
    def gateway_sends_execute(self, again: bool, n: int) -> None:
        if not self.is_up:
            return
        offered = self.gateway.offered
        if not again or not offered:
            offered.append(f"r{len(offered)}")
        request_id = pick(offered, n) if again else offered[-1]
        payload = {
            "requestId": request_id,
            "organizationId": "o",
            "userId": "u",
            "kind": "agent.execute",
            "payload": {},
        }
        self.to_agent.append(json.dumps({"type": "execute", **payload}).encode())

    @rule(commits=st.booleans(), pongs=st.booleans())
    def gateway_hears_one(self, commits: bool, pongs: bool) -> None:
        if self.to_gateway:
            answers = self.gateway.hear(self.to_gateway.popleft(), commits=commits, pongs=pongs)
            self.to_agent += [json.dumps(answer).encode() for answer in answers]

    @rule(twice=st.booleans())
    def agent_hears_one(self, twice: bool) -> None:
        if self.to_agent:
            message = self.to_agent.popleft()
            for _ in range(1 + twice):
                frame = json.loads(message)
                if frame["type"] == "execute_ack":
                    self.acked.add(frame["requestId"])
                room = self.peer.in_flight < ROOM
                effects = self.peer.receive_data(message, self.now)
                declined = [e for e in effects if isinstance(e, fx.Send) and over_capacity(e.frame)]
                assert not (declined and room), "work was declined though there is room for it"
                self.carry(effects)

    @rule()
    def all_is_heard(self) -> None:
        while self.to_gateway or self.to_agent:
            self.gateway_hears_one(commits=True, pongs=False)
            self.agent_hears_one(twice=False)

    @rule(n=PICK)
    def starts_one(self, n: int) -> None:
        if self.accepted:
            request_id = pick(sorted(self.accepted), n)
            self.accepted.discard(request_id)
            assert self.peer.may_start(request_id, self.now), "without leases nothing keeps it from starting"
            self.save()
            self.starts[request_id] += 1
            self.running.add(request_id)

    @rule(n=PICK, succeeds=st.booleans())
    def ends_one(self, n: int, succeeds: bool) -> None:
        if self.running:
            request_id = pick(sorted(self.running), n)
            self.running.discard(request_id)
            status, error = ("succeeded", None) if succeeds else ("failed", "HOST_EXIT_CODE:1")
            result = f.ExecuteResult(request_id=request_id, status=status, error=error)  # type: ignore[arg-type]
            self.kept[request_id] = result
            self.carry(self.peer.finish(result, self.now))

    @rule(n=PICK)
    def disk_is_full(self, n: int) -> None:
        if self.accepted:
            request_id = pick(sorted(self.accepted), n)
            self.accepted.discard(request_id)
            self.carry(self.peer.decline(request_id, self.now))

    @rule(ms=st.sampled_from([1_000, 12_000, 30_000, 70_000, 3_600_000]), heard=st.booleans())
    def time_passes(self, ms: int, heard: bool) -> None:
        self.now += ms
        if heard and self.is_up:
            self.peer.heard(self.now)
        effects = self.peer.tick(self.now)
        # It may acknowledge late, or never: once per socket is what it can be asked to take.
        assert not any(isinstance(effect, fx.Answer) for effect in effects)
        self.carry(effects)

    @invariant()
    def each_request_starts_once_and_has_one_outcome(self) -> None:
        assert all(count == 1 for count in self.starts.values()), self.starts
        for request_id, results in self.gateway.results.items():
            # A tombstone asked again only says that it ended here.
            said = [r for r in results if r.get("errorMessage") != "this request already ended here"]
            made = json.loads(encode(self.kept[request_id]))
            assert all((r["status"], r.get("error")) == (made["status"], made.get("error")) for r in said)

    @invariant()
    def what_runs_is_within_the_room(self) -> None:
        assert len(self.accepted | self.running) == self.peer.in_flight <= ROOM

    def teardown(self) -> None:
        """On a link that works, whatever was started is delivered, acknowledged, and forgotten."""
        self.socket_breaks()
        while self.accepted:
            self.starts_one(0)
        while self.running:
            self.ends_one(0, succeeds=True)
        self.connects()
        self.all_is_heard()
        for request_id in self.starts:
            expired = request_id not in self.disk
            assert expired or (request_id in self.buried and self.gateway.results[request_id]), "a result was lost"


AtBaseGateway.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAtBaseGateway = pytest.mark.promise("P2")(pytest.mark.promise("P3")(AtBaseGateway.TestCase))
