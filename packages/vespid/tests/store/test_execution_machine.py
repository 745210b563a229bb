"""The database's functions and `vespid_protocol.lease` are one machine: any sequence of events, the same row."""

import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from vespid_protocol import lease
from vespid_protocol.lease import Effect, Event, Happening, Lease, Loss, State

AGENTS = st.sampled_from([0, 1])
# What a frame says of its epoch, from the row's.
EPOCHS = st.sampled_from(["none", "own", "older", "newer"])
DAY_MS = 86_400_000


class Agent:
    """An executor and what the database has been told of it."""

    def __init__(self) -> None:
        self.id = str(uuid4())
        self.connection_epoch = 0
        self.connected = False
        self.revoked = False
        self.cordoned = False
        self.journal = "first"


class Walk(RuleBasedStateMachine):
    """One request, two agents, and everything that can happen to them."""

    sql: "psycopg.Connection[Any]"

    @initialize(on_lost=st.sampled_from(["fail", "resend", "wait"]), pinned=st.booleans())
    def begin(self, on_lost: Any, pinned: bool) -> None:
        self.org, self.edge, self.run = str(uuid4()), str(uuid4()), str(uuid4())
        self.request = f"{self.run}:n:1"
        self.agents = [Agent(), Agent()]
        self.model = Lease(on_lost=on_lost, pinned=pinned)
        # By the model's own clock: nothing is due unless a rule says so.
        self.now = 0
        self.epochs_seen = [0]
        # One of them was listed as lost by its own word (received, then omitted): which code it ends with is open.
        self.omitted = False
        slug = f"o-{self.org[-12:]}"
        self.sql.execute("insert into organizations (id, slug, name) values (%s, %s, 'Org')", (self.org, slug))
        self.sql.execute("select vespid_x_renew_process(%s, 'gateway', null, 86400000)", (self.edge,))
        for agent in self.agents:
            self.sql.execute(
                "insert into executors (id, organization_id, name, token_sha256) values (%s, %s, 'a', %s)",
                (agent.id, self.org, agent.id.encode()),
            )
            self.connect(agent, "first", ())

    # --- helpers -----------------------------------------------------------------------------------------------------

    def call(self, function: str, item: dict[str, Any]) -> dict[str, Any]:
        row = self.sql.execute(
            f"select to_jsonb(f) as row from {function}(array[%s::text::jsonb]) f",
            (msgspec.json.encode(item).decode(),),
        ).fetchone()
        assert row is not None
        return dict(row[0])

    def step(self, event: Event, **known: Any) -> tuple[Effect, ...]:
        outcome = lease.step(self.model, Happening(event=event, now=self.now, **known))
        self.model = outcome.lease
        return outcome.effects

    def epoch(self, said: str) -> int | None:
        return {"none": None, "own": self.model.lease_epoch, "older": self.model.lease_epoch - 1}.get(
            said, self.model.lease_epoch + 1
        )

    def connect(self, agent: Agent, journal: str, in_flight: tuple[str, ...]) -> None:
        row = self.sql.execute(
            "select connection_epoch from vespid_x_connect_executor(%s, %s)", (agent.id, self.edge)
        ).fetchone()
        assert row is not None
        agent.connection_epoch, agent.connected, agent.journal = row[0], True, journal
        hello = {
            "connectionEpoch": agent.connection_epoch,
            "agentVersion": "1",
            "name": "a",
            "reportedTags": [],
            "protocolVersion": 2,
            "journalId": f"{agent.id}-{journal}",
            "inFlight": [{"requestId": request, "leaseEpoch": self.model.lease_epoch} for request in in_flight],
            "unacked": [],
            "capabilities": {},
        }
        self.sql.execute(
            "select * from vespid_x_hello_executor(%s, %s::text::jsonb)",
            (agent.id, msgspec.json.encode(hello).decode()),
        )

    @property
    def exists(self) -> bool:
        return self.model.state is not State.NONE

    def holds(self, agent: Agent) -> bool:
        return self.model.executor_id == agent.id

    # --- what can happen ---------------------------------------------------------------------------------------------

    @rule(same=st.booleans())
    def dispatch(self, same: bool) -> None:
        same = same or not self.exists
        item = {
            "org": self.org,
            "requestId": self.request,
            "nodeId": "n",
            "nodeType": "agent.execute",
            "attempt": 1,
            "kind": "agent.execute",
            "placement": "executor",
            "payload": {},
            "payloadSha256": hashlib.sha256(b"" if same else b"other").hexdigest(),
            "timeoutMs": self.model.timeout_ms,
            "maxWaitMs": DAY_MS,
            "onLost": self.model.on_lost,
            "pinExecutorId": self.agents[0].id if self.model.pinned else None,
        }
        answer = self.call("vespid_x_create_executions", item)
        effects = self.step(Event.DISPATCH, same_request=same)
        expected = (
            "conflict" if Effect.ANSWER_CONFLICT in effects else "created" if Effect.CHOOSE in effects else "exists"
        )
        assert answer["outcome"] == expected

    @precondition(lambda self: self.exists)
    @rule(number=AGENTS)
    def grant(self, number: int) -> None:
        agent = self.agents[number]
        item = {
            "request": self.request,
            "executor": agent.id,
            "connectionEpoch": agent.connection_epoch,
            "edge": self.edge,
        }
        answer = self.call("vespid_x_grant_executions", item)
        may_hold = agent.connected and not agent.revoked and not agent.cordoned and not (self.model.pinned and number)
        effects = self.step(Event.GRANT, executor_id=agent.id, may_hold=may_hold)
        assert (answer["outcome"] == "granted") == (Effect.SEND_EXECUTE in effects)
        if Effect.SEND_EXECUTE in effects:
            self.omitted = False

    @rule(number=AGENTS)
    def cordon(self, number: int) -> None:
        agent = self.agents[number]
        agent.cordoned = not agent.cordoned
        self.sql.execute("update executors set cordoned = %s where id = %s", (agent.cordoned, agent.id))

    @precondition(lambda self: self.exists)
    @rule(number=AGENTS, said=EPOCHS)
    def decline(self, number: int, said: str) -> None:
        agent, epoch = self.agents[number], self.epoch(said)
        answer = self.call(
            "vespid_x_return_executions", {"request": self.request, "executor": agent.id, "epoch": epoch}
        )
        effects = self.step(Event.DECLINE, executor_id=agent.id, lease_epoch=epoch)
        assert (answer["outcome"] == "returned") == (Effect.CHOOSE_WITHOUT in effects)

    @precondition(lambda self: self.exists)
    @rule(number=AGENTS, said=EPOCHS, seq=st.integers(0, 6))
    def remote_event(self, number: int, said: str, seq: int) -> None:
        agent, epoch = self.agents[number], self.epoch(said)
        item = {
            "request": self.request,
            "executor": agent.id,
            "connectionEpoch": agent.connection_epoch,
            "epoch": epoch,
            "firstEventSeq": seq,
            "lastEventSeq": seq,
            "events": [{"t": "remote_event"}],
        }
        answer = self.call("vespid_x_append_remote_events", item)
        if agent.revoked:
            assert answer["outcome"] == "fenced"
            return
        effects = self.step(Event.REMOTE_EVENT, executor_id=agent.id, lease_epoch=epoch, seq=seq)
        assert (answer["outcome"] == "appended") == (Effect.APPEND_EVENT in effects)
        if Effect.APPEND_EVENT in effects:
            # Received is persisted with the next event.
            self.step(Event.RECEIVED, executor_id=agent.id, lease_epoch=epoch)

    @precondition(lambda self: self.exists)
    @rule(number=AGENTS, said=EPOCHS, succeeded=st.booleans(), stale=st.booleans())
    def result(self, number: int, said: str, succeeded: bool, stale: bool) -> None:
        agent, epoch = self.agents[number], self.epoch(said)
        item = {
            "request": self.request,
            "executor": agent.id,
            "connectionEpoch": agent.connection_epoch - int(stale),
            "epoch": epoch,
            "status": "succeeded" if succeeded else "failed",
            "error": None if succeeded else "NODE_EXECUTION_FAILED",
        }
        answer = self.call("vespid_x_finish_executions", item)
        if stale:
            assert answer["outcome"] == "stale"
            return
        effects = self.step(
            Event.RESULT, executor_id=agent.id, lease_epoch=epoch, succeeded=succeeded, revoked=agent.revoked
        )
        assert (answer["outcome"] in ("applied", "cancelled")) == (Effect.APPLY in effects)
        assert (answer["outcome"] == "stale") == agent.revoked

    @precondition(lambda self: self.exists)
    @rule()
    def cancel(self) -> None:
        self.sql.execute("select * from vespid_x_cancel_execution(%s)", (self.request,))
        self.step(Event.CANCEL)

    @precondition(lambda self: self.exists)
    @rule(due=st.booleans())
    def act_by(self, due: bool) -> None:
        moved = "act_by = now(), sweep_at = now()" if due else "sweep_at = now()"
        self.sql.execute(
            f"update executions set {moved} where request_id = %s and finished_at is null",
            (self.request,),
        )
        self.sql.execute("select * from vespid_x_sweep_executions(100)")
        self.now += 2 * DAY_MS if due else 0
        if self.model.state not in lease.TERMINAL:
            self.step(Event.ACT_BY)

    @precondition(lambda self: self.exists)
    @rule(number=AGENTS)
    def lose(self, number: int) -> None:
        """It stays away until its leases are over."""
        agent = self.agents[number]
        if not agent.connected or agent.revoked:
            return
        self.sql.execute("select vespid_x_disconnect_executor(%s, %s, 0)", (agent.id, agent.connection_epoch))
        agent.connected = False
        self.sql.execute("select * from vespid_x_sweep_leases(100)")
        self.step(Event.LOST, executor_id=agent.id if self.holds(agent) else None, loss=Loss.LEASE_EXPIRED)

    @precondition(lambda self: self.exists)
    @rule(number=AGENTS, lists=st.booleans(), same_journal=st.booleans())
    def reconnect(self, number: int, lists: bool, same_journal: bool) -> None:
        agent = self.agents[number]
        if agent.revoked:
            return
        journal = agent.journal if same_journal else str(uuid4())
        lists = lists and same_journal
        self.connect(agent, journal, (self.request,) if lists else ())
        if not self.holds(agent) or self.model.state in (State.PENDING, *lease.TERMINAL):
            return
        if lists:
            if self.model.state is not State.CANCELLING:
                self.step(Event.HELLO_LISTS, executor_id=agent.id)
                self.omitted = False
        elif same_journal:
            self.omitted = self.model.state is State.RECEIVED
            self.step(Event.HELLO_OMITS, executor_id=agent.id, loss=Loss.OMITTED)
        else:
            self.step(Event.LOST, executor_id=agent.id, loss=Loss.ANOTHER_JOURNAL)

    @precondition(lambda self: self.model.state is State.PENDING)
    @rule(
        number=AGENTS,
        returns=st.sampled_from(["not", "omitting", "listing", "with another journal"]),
        late=st.booleans(),
    )
    def take_and_be_lost(self, number: int, returns: str, late: bool) -> None:
        """The whole of a lost lease in one rule: put together from single ones it hardly ever comes about."""
        agent = self.agents[number]
        self.grant(number)
        if not self.holds(agent) or self.model.state is not State.DISPATCHED:
            return
        self.remote_event(number, "own", self.model.last_event_seq + 1)
        if late or returns == "not":
            self.lose(number)
        if returns != "not":
            self.reconnect(number, returns == "listing", returns != "with another journal")

    @precondition(lambda self: self.exists)
    @rule(number=AGENTS)
    def revoke(self, number: int) -> None:
        agent = self.agents[number]
        agent.revoked = True
        self.sql.execute("update executors set revoked_at = now() where id = %s", (agent.id,))
        self.sql.execute("select * from vespid_x_revoke_leases(%s)", (agent.id,))
        self.step(Event.LOST, executor_id=agent.id if self.holds(agent) else None, loss=Loss.REVOKED)

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def the_row_is_the_models(self) -> None:
        row = self.sql.execute(
            """select state, executor_id, lease_epoch, placements, last_event_seq, error, finished_at is null,
                      extract(epoch from act_by - now())
               from executions where request_id = %s""",
            (getattr(self, "request", ""),),
        ).fetchone()
        if row is None:
            assert not hasattr(self, "model") or not self.exists
            return
        state, executor, epoch, placements, seq, error, is_open, left_s = row
        model = self.model
        holder = None if model.executor_id is None else UUID(model.executor_id)
        assert (state, executor, epoch, placements) == (model.state, holder, model.lease_epoch, model.placements)
        assert seq == model.last_event_seq
        assert is_open == (model.state not in lease.TERMINAL)
        if model.state is State.FAILED and not (self.omitted and error == "NODE_EXECUTION_TIMEOUT"):
            assert error == model.error
        if is_open:
            longest = {State.PENDING: DAY_MS, State.CANCELLING: lease.CANCEL_MS}
            assert left_s <= longest.get(model.state, model.timeout_ms + lease.TIMEOUT_GRACE_MS) / 1000
            if model.state is State.PENDING:
                assert left_s > DAY_MS / 2000


@pytest.fixture
def sql(database_url: str) -> "Iterator[psycopg.Connection[Any]]":
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.promise("P2", "P4", "P6")
def test_the_statements_walk_the_table(sql: "psycopg.Connection[Any]") -> None:
    class OnDatabase(Walk):
        pass

    OnDatabase.sql = sql
    run_state_machine_as_test(
        OnDatabase,
        settings=settings(
            max_examples=300,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.promise("P2")
def test_a_wait_that_had_lost_its_holder_ends_as_a_wait(sql: "psycopg.Connection[Any]") -> None:
    class OnDatabase(Walk):
        pass

    OnDatabase.sql = sql
    walk = OnDatabase()
    walk.begin(on_lost="wait", pinned=False)
    walk.dispatch(same=True)
    walk.take_and_be_lost(number=0, returns="omitting", late=True)
    assert walk.model.lost
    walk.decline(number=0, said="own")
    walk.act_by(due=True)
    walk.the_row_is_the_models()
    assert walk.model.error == "NO_AGENT_AVAILABLE"
